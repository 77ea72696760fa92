/* Follow DRBD minors in /proc/drbd: one line a sample and minor, on stdout.
 *
 * drbd-sample MILLISECONDS MINOR [MINOR...]
 * up=12.345 minor=0 cs=Connected ro=Primary/Secondary ds=UpToDate/UpToDate proto=A nr=1 dw=2 ...
 *
 * A C program, since Python takes most of a 50 ms step in emulation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void sample(const char *text, int minor, double up)
{
	char head[16], cs[32], ro[64], ds[64], proto[8];
	snprintf(head, sizeof(head), "\n%2d: ", minor);
	const char *at = strstr(text, head);
	if (!at) {
		printf("up=%.3f minor=%d cs=-\n", up, minor);
		return;
	}
	at += strlen(head);
	int n = sscanf(at, "cs:%31s ro:%63s ds:%63s %7s", cs, ro, ds, proto);
	if (n < 4) {
		printf("up=%.3f minor=%d cs=%s\n", up, minor, n > 0 ? cs : "-");
		return;
	}
	printf("up=%.3f minor=%d cs=%s ro=%s ds=%s proto=%s", up, minor, cs, ro, ds, proto);
	const char *counters = strchr(at, '\n');
	if (counters) {
		const char *end = strchr(++counters, '\n');
		char line[512];
		size_t length = end ? (size_t)(end - counters) : strlen(counters);
		if (length >= sizeof(line))
			length = sizeof(line) - 1;
		memcpy(line, counters, length);
		line[length] = 0;
		for (char *word = strtok(line, " \t"); word; word = strtok(NULL, " \t")) {
			char *colon = strchr(word, ':');
			if (colon)
				*colon = '=';
			printf(" %s", word);
		}
	}
	putchar('\n');
}

int main(int argc, char **argv)
{
	static char text[1 << 16];
	struct timespec t, step;
	if (argc < 3) {
		fprintf(stderr, "usage: drbd-sample MILLISECONDS MINOR...\n");
		return 2;
	}
	int ms = atoi(argv[1]);
	step.tv_sec = ms / 1000;
	step.tv_nsec = ms % 1000 * 1000000L;
	for (;;) {
		FILE *f = fopen("/proc/drbd", "r");
		size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
		if (f)
			fclose(f);
		text[n] = 0;
		clock_gettime(CLOCK_BOOTTIME, &t);
		for (int i = 2; i < argc; i++)
			sample(text, atoi(argv[i]), t.tv_sec + t.tv_nsec / 1e9);
		fflush(stdout);
		nanosleep(&step, NULL);
	}
}
