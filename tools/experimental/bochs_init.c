// The first process of the emulated machine (bochs.py): runs every program of /programs, says how each ended, and
// switches the machine off.
#include <dirent.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

static void run(const char *name) {
  char path[300];
  int status;
  snprintf(path, sizeof path, "/programs/%s", name);
  printf("\n== %s\n", name);
  fflush(stdout);
  if (!fork()) {
    execl(path, path, NULL);
    _exit(127);
  }
  wait(&status);
  if (WIFSIGNALED(status)) printf("signal %d\n", WTERMSIG(status));
  else if (WEXITSTATUS(status)) printf("exit %d\n", WEXITSTATUS(status));
}

int main(void) {
  struct dirent **found;
  const int count = scandir("/programs", &found, NULL, alphasort);
  for (int i = 0; i < count; i++)
    if (found[i]->d_name[0] != '.') run(found[i]->d_name);
  printf("\n== end\n");
  fflush(stdout);
  sleep(1);
  reboot(RB_POWER_OFF);
}
