/* The integrity guest: PID 1 of a tiny Xen guest that proves its disks.
 *
 * One process a disk writes sequentially numbered 4 KiB blocks with O_DIRECT in
 * a ring, and after each write reads back a random block that was acknowledged
 * before. Block SEQ (from 1) lies at ring position (SEQ - 1) % blocks. What was
 * acknowledged is remembered in memory; after a reboot the ring itself is
 * scanned, and "full" says up to which number nothing is missing.
 *
 * What it prints on hvc0 and which commands it reads there: see ../README.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS (BLOCK / 8)
#define MAX_BURST 256
#define MAGIC 0x31304b4c42484558ULL /* "XEHBLK01" */

/* Words of a block; all others are filled from its number. */
enum { W_MAGIC, W_DISK, W_SEQ, W_POS, W_SUM, W_FILL };

struct control { /* shared with the workers */
	volatile int paused, stop, rate, burst, verify;
};

static struct control *ctl;
static char disk[16];
static uint64_t disk_word;
static uint64_t seq, acked, reads, wrong, werr, rerr, blocks;
static uint64_t *table; /* ring position -> acknowledged number, 0 = none */
static off_t start;
static int fd;
static char *buffer, *probe;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* One line in one write, so that lines of several disks don't mix. */
static void say(const char *format, ...)
{
	char line[256];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(1, line, n) < 0)
		return;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 29;
	return x * 0xc4ceb9fe1a85ec53ULL;
}

static uint64_t checksum(const uint64_t *w)
{
	uint64_t sum = 1469598103934665603ULL;
	for (int i = 0; i < WORDS; i++)
		if (i != W_SUM)
			sum = (sum ^ w[i]) * 1099511628211ULL;
	return sum;
}

static void fill(uint64_t *w, uint64_t number, uint64_t pos)
{
	w[W_MAGIC] = MAGIC;
	w[W_DISK] = disk_word;
	w[W_SEQ] = number;
	w[W_POS] = pos;
	for (int i = W_FILL; i < WORDS; i++)
		w[i] = mix(number * WORDS + i);
	w[W_SUM] = checksum(w);
}

/* The number of the sound block in w, or 0. */
static uint64_t number_in(const uint64_t *w, uint64_t pos)
{
	if (w[W_MAGIC] != MAGIC || w[W_DISK] != disk_word || w[W_POS] != pos)
		return 0;
	return checksum(w) == w[W_SUM] ? w[W_SEQ] : 0;
}

static void status(void)
{
	say("XH %s seq=%llu acked=%llu read=%llu wrong=%llu werr=%llu rerr=%llu up=%.1f",
	    disk, seq, acked, reads, wrong, werr, rerr, now());
}

/* Read one acknowledged block back; 1 when it isn't what was acknowledged. */
static int check(uint64_t pos)
{
	uint64_t want = table[pos];
	if (!want)
		return 0;
	if (pread(fd, probe, BLOCK, start + pos * BLOCK) != BLOCK) {
		if (rerr++ == 0)
			say("XH %s read failed pos=%llu errno=%d", disk, pos, errno);
		return 0;
	}
	reads++;
	uint64_t got = number_in((uint64_t *)probe, pos);
	if (got == want)
		return 0;
	wrong++;
	say("XH %s WRONG pos=%llu want=%llu got=%llu", disk, pos, want, got);
	return 1;
}

/* What the ring holds when the guest starts. */
static void scan(void)
{
	uint64_t max = 0, found = 0, holes = 0, full;
	for (uint64_t pos = 0; pos < blocks; pos++) {
		if (pos % MAX_BURST == 0) {
			uint64_t n = blocks - pos < MAX_BURST ? blocks - pos : MAX_BURST;
			if (pread(fd, buffer, n * BLOCK, start + pos * BLOCK) != (ssize_t)(n * BLOCK)) {
				rerr++;
				memset(buffer, 0, MAX_BURST * BLOCK);
			}
		}
		uint64_t n = number_in((uint64_t *)(buffer + pos % MAX_BURST * BLOCK), pos);
		if (n && (n - 1) % blocks != pos)
			n = 0;
		table[pos] = n;
		found += n != 0;
		if (n > max)
			max = n;
	}
	uint64_t low = max > blocks ? max - blocks + 1 : 1;
	full = max;
	for (uint64_t n = low; n <= max; n++)
		if (table[(n - 1) % blocks] != n) {
			if (holes++ == 0)
				full = n - 1;
			table[(n - 1) % blocks] = 0;
		}
	seq = acked = max;
	say("XH %s boot max=%llu full=%llu holes=%llu found=%llu wrong=0 blocks=%llu",
	    disk, max, full, holes, found, blocks);
}

static void verify_all(void)
{
	uint64_t bad = 0, checked = 0;
	for (uint64_t pos = 0; pos < blocks; pos++)
		if (table[pos]) {
			bad += check(pos);
			checked++;
		}
	say("XH %s verify wrong=%llu checked=%llu", disk, bad, checked);
}

/* Write the next blocks, again and again until it works, and read one back. */
static void step(void)
{
	uint64_t n = ctl->burst;
	uint64_t pos = seq % blocks;
	if (n > blocks - pos)
		n = blocks - pos;
	for (uint64_t i = 0; i < n; i++) {
		fill((uint64_t *)(buffer + i * BLOCK), seq + 1 + i, pos + i);
		table[pos + i] = 0;
	}
	seq += n;
	while (pwrite(fd, buffer, n * BLOCK, start + pos * BLOCK) != (ssize_t)(n * BLOCK)) {
		if (werr++ == 0)
			say("XH %s write failed pos=%llu errno=%d", disk, pos, errno);
		if (ctl->stop)
			return;
		usleep(200000);
		status();
	}
	for (uint64_t i = 0; i < n; i++)
		table[pos + i] = seq - n + 1 + i;
	acked = seq;
	uint64_t known = acked < blocks ? acked : blocks;
	check(mix(acked + (uint64_t)(now() * 1e6)) % known);
}

static int worker(const char *name, unsigned long from_mib, unsigned long size_mib)
{
	char path[32];
	uint64_t bytes = 0;
	snprintf(disk, sizeof(disk), "%s", name);
	memcpy(&disk_word, disk, sizeof(disk_word));
	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDWR | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0) {
		say("XH %s unusable errno=%d", disk, errno);
		return 1;
	}
	start = (off_t)from_mib << 20;
	if (bytes <= (uint64_t)start + BLOCK) {
		say("XH %s too small", disk);
		return 1;
	}
	blocks = ((uint64_t)size_mib << 20) / BLOCK;
	if ((bytes - start) / BLOCK < blocks)
		blocks = (bytes - start) / BLOCK;
	table = calloc(blocks, sizeof(*table));
	if (!table || posix_memalign((void **)&buffer, BLOCK, MAX_BURST * BLOCK) ||
	    posix_memalign((void **)&probe, BLOCK, BLOCK))
		return 1;
	scan();
	double told = 0;
	int verified = ctl->verify;
	while (!ctl->stop) {
		double begin = now();
		if (verified != ctl->verify) {
			verified = ctl->verify;
			verify_all();
		}
		if (ctl->paused)
			usleep(50000);
		else
			step();
		if (now() - told >= 1) {
			told = now();
			status();
		}
		double left = ctl->rate ? 1.0 / ctl->rate - (now() - begin) : 0;
		if (left > 0 && !ctl->paused)
			usleep((useconds_t)(left * 1e6));
	}
	status();
	return 0;
}

static unsigned long option(const char *cmdline, const char *name, int field, unsigned long otherwise)
{
	const char *at = strstr(cmdline, name);
	char *end;
	if (!at)
		return otherwise;
	unsigned long value = strtoul(at + strlen(name), &end, 10);
	return field && *end == ',' ? strtoul(end + 1, NULL, 10) : value;
}

static void finish(int how)
{
	ctl->stop = 1;
	for (int i = 0; i < 100 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
		usleep(100000);
	say("XH %s", how == RB_AUTOBOOT ? "reboots" : "powers off");
	tcdrain(1);
	reboot(how);
}

static void on_signal(int number)
{
	/* What busybox's poweroff and reboot send to PID 1. */
	finish(number == SIGTERM ? RB_AUTOBOOT : RB_POWER_OFF);
}

static void command(char *line)
{
	line[strcspn(line, "\r\n")] = 0;
	if (!strcmp(line, "reboot"))
		finish(RB_AUTOBOOT);
	else if (!strcmp(line, "poweroff"))
		finish(RB_POWER_OFF);
	else if (!strcmp(line, "pause") || !strcmp(line, "resume"))
		ctl->paused = line[0] == 'p';
	else if (!strncmp(line, "rate ", 5))
		ctl->rate = atoi(line + 5);
	else if (!strncmp(line, "burst ", 6) && atoi(line + 6) > 0 && atoi(line + 6) <= MAX_BURST)
		ctl->burst = atoi(line + 6);
	else if (!strcmp(line, "verify"))
		ctl->verify++;
	else if (!strcmp(line, "crash")) {
		int t = open("/proc/sysrq-trigger", O_WRONLY);
		if (t < 0 || write(t, "c", 1) < 0)
			say("XH no sysrq");
	} else if (line[0]) {
		say("XH unknown command: %s", line);
		return;
	}
	say("XH ok %s", line);
}

int main(void)
{
	char cmdline[4096] = "", name[16], line[128];
	struct termios tty;
	int c = open("/proc/cmdline", O_RDONLY), disks = 0;
	if (c < 0 || read(c, cmdline, sizeof(cmdline) - 1) < 0)
		say("XH no command line");
	ctl = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ctl->rate = option(cmdline, "xh.rate=", 0, 0);
	ctl->burst = option(cmdline, "xh.burst=", 0, 1);
	if (ctl->burst < 1 || ctl->burst > MAX_BURST)
		ctl->burst = 1;
	if (!tcgetattr(0, &tty)) {
		tty.c_lflag &= ~ECHO;
		tcsetattr(0, TCSANOW, &tty);
	}
	for (char letter = 'a'; letter <= 'p'; letter++) {
		snprintf(name, sizeof(name), "xvd%c", letter);
		snprintf(line, sizeof(line), "/dev/%s", name);
		if (access(line, F_OK))
			continue;
		disks++;
		if (fork() == 0)
			return worker(name, option(cmdline, "xh.region=", 0, 8),
				      option(cmdline, "xh.region=", 1, 16));
	}
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	signal(SIGTERM, on_signal);
	say("XH ready disks=%d", disks);
	for (;;) {
		ssize_t n = read(0, line, sizeof(line) - 1);
		if (n <= 0) {
			sleep(1);
			continue;
		}
		line[n] = 0;
		for (char *save, *l = strtok_r(line, "\r\n", &save); l; l = strtok_r(NULL, "\r\n", &save))
			command(l);
	}
}
