// The only program of the system: loads the module, unloads it, and restarts the machine, at which QEMU ends.
#include <fcntl.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    int fd = open("/paravirt_disk.ko", O_RDONLY);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
        perror("init: the module was not loaded");
    else if (syscall(SYS_delete_module, "paravirt_disk", 0) != 0)
        perror("init: the module was not unloaded");
    else
        puts("init: loaded and unloaded");
    fflush(stdout);
    reboot(RB_AUTOBOOT);
    return 1;
}
