// Lets User Mode Linux 6.1 run on processors with AMX; scripts/uml-run preloads it. UML keeps a program's registers in 2,696
// bytes. Where they are more, the kernel that it runs on refuses to set a part of them (EFAULT; xstateregs_set of
// arch/x86/kernel/fpu/regset.c). Here the rest, which no program of the guest uses, is what it was.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

long ptrace(enum __ptrace_request request, ...) {
  va_list list;
  va_start(list, request);
  long pid = va_arg(list, long), address = va_arg(list, long), data = va_arg(list, long), word = 0;
  va_end(list);

  static _Thread_local char whole[1 << 16];
  struct iovec all = {whole, sizeof whole}, *part = (struct iovec *)data;
  if (request == PTRACE_SETREGSET && address == NT_X86_XSTATE &&
      syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) == 0 && part->iov_len < all.iov_len) {
    memcpy(whole, part->iov_base, part->iov_len);
    data = (long)&all;
  }
  // The system call writes a word that is peeked at to where data points; the library returns it.
  int peeks = request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER;
  long result = syscall(SYS_ptrace, request, pid, address, peeks ? (long)&word : data);
  if (!peeks || result != 0) return result;
  errno = 0;
  return word;
}
