"""A clock that can be set back for one program: a library before libc, which needs a C compiler and Linux."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["Clock"]

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void)
{
    static int (*real)(clockid_t, struct timespec *);
    static time_t looked = -1, found;
    struct timespec now;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_MONOTONIC, &now);
    if (now.tv_sec != looked) {
        FILE *file = fopen(getenv("CLOCK_SHIFT"), "r");
        long seconds;
        if (file && fscanf(file, "%ld", &seconds) == 1)
            found = seconds;
        if (file)
            fclose(file);
        looked = now.tv_sec;
    }
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept)
        *kept = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """Begins as everybody's; :meth:`set_back` holds within two seconds. Raises OSError without a compiler."""

    def __init__(self, folder: Path) -> None:
        self._shift = folder / "shift"
        self._shift.write_text("0\n")
        source, self._library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SOURCE)
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)

    @property
    def environ(self) -> dict[str, str]:
        """What the program needs that is to have this clock."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT": str(self._shift)}

    def set_back(self, seconds: int) -> None:
        """By so much, from what everybody's says."""
        self._shift.write_text(f"{-seconds}\n")
