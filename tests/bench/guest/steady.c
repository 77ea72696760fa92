/* PID 1 of a guest that measures: synchronous 4 KiB writes at random places of each disk in
 * turn, one at a time, as a database's log or a mail queue does. Prints, per turn and disk,
 * "SW xvda WRITES SECONDS". Takes the integrity guest's place in its initramfs.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define BLOCKS 4096 /* 16 MiB */
#define TURNS 6
#define SECONDS 10.0

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(void)
{
	uint64_t random = 88172645463325252ULL;
	char *buffer, path[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (posix_memalign((void **)&buffer, BLOCK, BLOCK))
		return 1;
	for (int turn = 0; turn < TURNS; turn++)
		for (char letter = 'a'; letter <= 'c'; letter++) {
			snprintf(path, sizeof(path), "/dev/xvd%c", letter);
			int fd = open(path, O_RDWR | O_DIRECT | O_SYNC);
			if (fd < 0) {
				printf("SW %s unusable\n", path + 5);
				continue;
			}
			double begin = now(), end = begin;
			long writes = 0;
			do {
				random ^= random << 13;
				random ^= random >> 7;
				random ^= random << 17;
				*(uint64_t *)buffer = random;
				if (pwrite(fd, buffer, BLOCK, (off_t)(random % BLOCKS) * BLOCK) != BLOCK) {
					printf("SW %s failed\n", path + 5);
					break;
				}
				writes++;
			} while ((end = now()) - begin < SECONDS);
			printf("SW %s %ld %.3f\n", path + 5, writes, end - begin);
			close(fd);
			sleep(2); /* what is still on its way to the peer isn't the next disk's */
		}
	puts("SW done");
	for (;;)
		pause();
}
