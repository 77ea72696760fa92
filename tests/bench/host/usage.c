/* What each process of a host costs from now until SIGTERM, those that live a moment included.
 *
 * The kernel tells of each task that ends (taskstats: Documentation/accounting/taskstats.rst in
 * Linux); who lives at the start and who lives at the end is in /proc. One line each on stdout:
 *
 *   begin up=12.345 self=PID              end up=… lost=MESSAGES
 *   stat cpu USER NICE SYSTEM IDLE …      /proc/stat's first line, once after begin, once after end
 *   memory available=KIB least=KIB        at the end
 *   lives up= pid= ppid= cpu=MICROSECONDS peak=KIB comm=NAME
 *   ended up= pid= tgid= ppid= lived=MICROSECONDS cpu=MICROSECONDS peak=KIB comm=NAME
 *   ready                                 all that begins is written, the rest comes from now on
 *   error WHAT                            and nothing more
 *
 * A C program: it must cost less than what it measures.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/taskstats.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MEMORY_EVERY_MS 500
#define RECEIVE (8 << 20)
/* the first with ac_tgid */
#define OLDEST 12

static volatile sig_atomic_t over;
static char buffer[1 << 16];
static unsigned long long lost;

static void stop(int number)
{
	(void)number;
	over = 1;
}

static void fail(const char *what)
{
	printf("error %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(1);
}

static double uptime(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* A small file's text; 0 where it can't be read. */
static size_t slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0 ? (size_t)n : 0;
}

static long long number_after(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	return at ? atoll(at + strlen(key)) : -1;
}

static long long available(void)
{
	char text[512];
	slurp("/proc/meminfo", text, sizeof(text));
	return number_after(text, "MemAvailable:");
}

static void print_stat(void)
{
	char text[256];
	slurp("/proc/stat", text, sizeof(text));
	text[strcspn(text, "\n")] = 0;
	printf("stat %s\n", text);
}

/* One line for each process; with reset their peaks count from now on (/proc/PID/clear_refs in
 * proc(5)). */
static void print_processes(int reset)
{
	long tick = 1000000 / sysconf(_SC_CLK_TCK);
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[64], text[4096];
	if (!proc)
		fail("/proc");
	while ((entry = readdir(proc))) {
		int pid = atoi(entry->d_name), ppid;
		unsigned long long user, system;
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		if (!slurp(path, text, sizeof(text)))
			continue;
		/* a name may hold spaces and brackets */
		char *name = strchr(text, '('), *rest = strrchr(text, ')');
		if (!name || !rest)
			continue;
		*rest = 0;
		if (sscanf(rest + 2, "%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &ppid, &user,
			   &system) != 3)
			continue;
		double up = uptime();
		char status[4096];
		snprintf(path, sizeof(path), "/proc/%d/status", pid);
		slurp(path, status, sizeof(status));
		long long peak = number_after(status, "VmHWM:");
		printf("lives up=%.3f pid=%d ppid=%d cpu=%llu peak=%lld comm=%s\n", up, pid, ppid,
		       (user + system) * tick, peak < 0 ? 0 : peak, name + 1);
		if (reset && peak >= 0) {
			snprintf(path, sizeof(path), "/proc/%d/clear_refs", pid);
			int fd = open(path, O_WRONLY);
			if (fd >= 0) {
				if (write(fd, "5", 1) < 0)
					printf("# the peak of %d isn't reset\n", pid);
				close(fd);
			}
		}
	}
	closedir(proc);
}

static void add(struct nlmsghdr *message, int type, const void *data, size_t size)
{
	struct nlattr *attribute = (void *)((char *)message + NLMSG_ALIGN(message->nlmsg_len));
	attribute->nla_type = type;
	attribute->nla_len = NLA_HDRLEN + size;
	memcpy((char *)attribute + NLA_HDRLEN, data, size);
	message->nlmsg_len = NLMSG_ALIGN(message->nlmsg_len) + NLA_ALIGN(attribute->nla_len);
}

static void ask(int fd, int family, int command, int type, const char *text)
{
	struct {
		struct nlmsghdr head;
		struct genlmsghdr generic;
		char space[256];
	} message = { 0 };
	message.head.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	message.head.nlmsg_type = family;
	message.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	message.generic.cmd = command;
	message.generic.version = 1;
	add(&message.head, type, text, strlen(text) + 1);
	if (send(fd, &message, message.head.nlmsg_len, 0) < 0)
		fail("netlink");
}

/* The data of an attribute among those in [at, end); NULL where it isn't. */
static const struct nlattr *attribute(const char *at, const char *end, int type)
{
	while (at + NLA_HDRLEN <= end) {
		const struct nlattr *one = (const void *)at;
		if (one->nla_len < NLA_HDRLEN || at + one->nla_len > end)
			return NULL;
		if ((one->nla_type & NLA_TYPE_MASK) == type)
			return one;
		at += NLA_ALIGN(one->nla_len);
	}
	return NULL;
}

static void print_ended(const struct nlmsghdr *message)
{
	const char *at = (const char *)NLMSG_DATA(message) + GENL_HDRLEN;
	const char *end = (const char *)message + message->nlmsg_len;
	/* a last thread's message holds its whole group once more: the threads are added up instead */
	const struct nlattr *whole = attribute(at, end, TASKSTATS_TYPE_AGGR_PID), *inner;
	struct taskstats stats = { 0 };
	if (!whole)
		return;
	at = (const char *)whole + NLA_HDRLEN;
	inner = attribute(at, (const char *)whole + whole->nla_len, TASKSTATS_TYPE_STATS);
	if (!inner)
		return;
	size_t size = inner->nla_len - NLA_HDRLEN;
	memcpy(&stats, (const char *)inner + NLA_HDRLEN, size < sizeof(stats) ? size : sizeof(stats));
	if (stats.version < OLDEST) {
		errno = 0;
		fail("taskstats of this kernel is too old");
	}
	/* the scheduler's own clock, up to its last look at the task (a tick ago at most); utime and
	 * stime count whole ticks */
	unsigned long long cpu = stats.cpu_run_virtual_total / 1000;
	if (!cpu)
		cpu = stats.ac_utime + stats.ac_stime;
	printf("ended up=%.3f pid=%u tgid=%u ppid=%u lived=%llu cpu=%llu peak=%llu comm=%.32s\n", uptime(),
	       stats.ac_pid, stats.ac_tgid, stats.ac_ppid, (unsigned long long)stats.ac_etime, cpu,
	       (unsigned long long)stats.hiwater_rss, stats.ac_comm);
}

/* Take what has come: tasks that ended, and the number of the family that was asked for. Returns
 * the error of an answer, 0 for an acknowledgement, 1 where none came. */
static int take(int fd, int family, int *found)
{
	int answer = 1;
	ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	if (n < 0) {
		if (errno == ENOBUFS)
			lost++;
		else if (errno != EAGAIN && errno != EINTR)
			fail("netlink");
		return answer;
	}
	for (struct nlmsghdr *m = (void *)buffer; NLMSG_OK(m, n); m = NLMSG_NEXT(m, n)) {
		if (m->nlmsg_type == NLMSG_ERROR) {
			answer = ((struct nlmsgerr *)NLMSG_DATA(m))->error;
		} else if (m->nlmsg_type == GENL_ID_CTRL && found) {
			const struct nlattr *id = attribute((char *)NLMSG_DATA(m) + GENL_HDRLEN,
							    (char *)m + m->nlmsg_len, CTRL_ATTR_FAMILY_ID);
			if (id)
				*found = *(const unsigned short *)((const char *)id + NLA_HDRLEN);
		} else if (m->nlmsg_type == family) {
			print_ended(m);
		}
	}
	return answer;
}

/* Wait for the answer to what was asked; ends the program where it is an error. */
static void answered(int fd, int family, int *found, const char *what)
{
	struct pollfd ready = { fd, POLLIN, 0 };
	for (int answer = 1; answer != 0;) {
		if (poll(&ready, 1, 10000) == 0) {
			errno = ETIMEDOUT;
			fail(what);
		}
		answer = take(fd, family, found);
		if (answer < 0) {
			errno = -answer;
			fail(what);
		}
	}
}

int main(void)
{
	static char out[1 << 20];
	char cpus[128];
	int family = 0, size = RECEIVE;
	struct sigaction action = { .sa_handler = stop };

	setvbuf(stdout, out, _IOFBF, sizeof(out));
	sigaction(SIGTERM, &action, NULL);
	setpriority(PRIO_PROCESS, 0, -15); /* a process is gone when this says so */
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	if (fd < 0 || bind(fd, (void *)&address, sizeof(address)))
		fail("netlink");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	ask(fd, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, TASKSTATS_GENL_NAME);
	answered(fd, -1, &family, "taskstats");
	if (!slurp("/sys/devices/system/cpu/possible", cpus, sizeof(cpus)))
		fail("/sys/devices/system/cpu/possible");
	cpus[strcspn(cpus, "\n")] = 0;
	ask(fd, family, TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, cpus);
	printf("begin up=%.3f self=%d\n", uptime(), getpid());
	answered(fd, family, NULL, "taskstats of these processors");
	print_stat();
	print_processes(1);
	printf("ready\n");
	fflush(stdout);

	long long first = available(), least = first;
	double next = uptime();
	while (!over) {
		struct pollfd ready = { fd, POLLIN, 0 };
		double left = (next - uptime()) * 1000;
		if (left <= 0) {
			long long now = available();
			least = now < least ? now : least;
			next += MEMORY_EVERY_MS / 1000.0;
			continue;
		}
		if (poll(&ready, 1, (int)left + 1) > 0)
			take(fd, family, NULL);
	}
	printf("end up=%.3f lost=%llu\n", uptime(), lost);
	print_stat();
	print_processes(0);
	/* what ended while that was looked at: who is in both lived at the end */
	for (struct pollfd ready = { fd, POLLIN, 0 }; poll(&ready, 1, 0) > 0;)
		take(fd, family, NULL);
	printf("memory available=%lld least=%lld\n", first, least);
	return 0;
}
