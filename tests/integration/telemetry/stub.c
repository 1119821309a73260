/* A libnvidia-ml.so.1 for the sampler's tests: two GPUs and the faults that real ones have.
 *
 *   cc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 stub.c
 *
 * What it does is said by the words in the file named by NVML_STUB, read at each call:
 *   rc18        nvmlInitWithFlags fails: library and driver differ
 *   hang        nvmlDeviceGetUtilizationRates does not return, ever
 *   slow        nvmlDeviceGetUtilizationRates does not return while the word is there
 *               (a file of that name and ".stuck" is made when either holds a caller)
 *   lost        the calls for GPU 1 answer "GPU is lost"
 *   gone        GPU 1 is neither counted nor found
 *   xid=N       one XID event N of GPU 1, once for each N
 *   pids=A,B    compute processes of GPU 0
 *   links=N     GPU 0 has N NVLinks; without the word it says nothing of any
 *   down=N      its link N is down; "dark": all of them are
 *   crc=N       its link 0 has counted so many CRC errors; "mute": no counter may be read
 *   mig         GPU 0 is divided: of the seven instances that it may have there are two, 7/0 and 9/0
 *   inside=A    a compute process of 7/0; "private": the processes of the whole GPU may not be listed
 *   blind       the instances may not be looked at
 * -DOLD_DRIVER leaves out the symbols an old driver lacks. It lists processes by the second version of that call.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10,
       GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18 };

typedef struct { int index; } device_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { unsigned id, scope; long long at, took; int type, rc; unsigned long long value; } field_t;
typedef struct { device_t *device; unsigned long long type, data; unsigned gi, ci; } event_t;

_Static_assert(sizeof(memory_v2_t) == 40, "NVML's size");
_Static_assert(sizeof(process_t) == 24, "NVML's size");
_Static_assert(sizeof(event_t) == 32, "NVML's size");
_Static_assert(sizeof(field_t) == 40, "NVML's size");

#ifndef GPUS
#define GPUS 2
#endif
static device_t devices[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static int registered[8];

static const char *words(void) {
    static char text[256];
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t length = 0;
    if (file) {
        length = fread(text, 1, sizeof text - 1, file);
        fclose(file);
    }
    text[length] = 0;
    return text;
}

static int says(const char *word) { return strstr(words(), word) != NULL; }

static int there(device_t *device) {
    return device->index == 1 && says("lost") ? GPU_IS_LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return says("rc18") ? LIB_RM_VERSION_MISMATCH : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int rc) { (void)rc; return "stub"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = says("gone") ? GPUS - 1 : GPUS; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    if (index >= GPUS || (index == 1 && says("gone")))
        return INVALID_ARGUMENT;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned length) {
    snprintf(uuid, length, device->index < 8 ? "GPU-stub-%d" : "MIG-stub-%d", device->index);
    return SUCCESS;
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned length) {
    snprintf(name, length, device->index < 8 ? "Stub 80GB" : "Stub 80GB MIG 3g.40gb");
    return SUCCESS;
}

static void stuck(void) {
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s.stuck", getenv("NVML_STUB"));
    file = fopen(path, "w");
    if (file)
        fclose(file);
}

int nvmlDeviceGetUtilizationRates(device_t *device, utilization_t *rates) {
    if (says("hang") || says("slow"))
        stuck();
    while (says("hang"))
        pause();
    while (says("slow"))
        usleep(10000);
    if (device->index == 0 && says("mig"))
        return NOT_SUPPORTED; /* as the driver answers of a divided GPU */
    rates->gpu = 40 + device->index;
    rates->memory = 10;
    return there(device);
}

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *memory) {
    memory->total = 80ULL << 30;
    memory->used = 21ULL << 30;
    memory->free = 59ULL << 30;
    return there(device);
}

int nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts) { *milliwatts = 312500; return there(device); }

int nvmlDeviceGetTemperature(device_t *device, int sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = 61;
    return there(device);
}

int nvmlDeviceGetClockInfo(device_t *device, int type, unsigned *mhz) {
    *mhz = type == 1 ? 1410 : 1593;
    return there(device);
}

int nvmlDeviceGetTotalEccErrors(device_t *device, int type, int counter, unsigned long long *count) {
    (void)counter;
    if (device->index == 1)
        return there(device) ? GPU_IS_LOST : NOT_SUPPORTED; /* a card without ECC */
    *count = type == 1 ? 2 : 7;
    return SUCCESS;
}

static int number(const char *word, int otherwise) {
    const char *at = strstr(words(), word);
    return at ? atoi(at + strlen(word)) : otherwise;
}

#ifdef OLD_DRIVER
#define nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetComputeRunningProcesses_v2
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, process_t *processes) {
    const char *at = strstr(words(), "pids=");
    unsigned room = *count, found = 0;
    if (device->index >= 8) {
        *count = device->index == 70 && number("inside=", 0);
        if (*count && processes == NULL)
            return INSUFFICIENT_SIZE;
        if (*count)
            processes[0] = (process_t){(unsigned)number("inside=", 0), 3ULL << 30, 7, 0};
        return SUCCESS;
    }
    if (says("private"))
        return NO_PERMISSION;
    if (device->index == 1 || at == NULL) {
        *count = 0;
        return there(device);
    }
    for (at += 5; *at >= '0' && *at <= '9'; at += *at == ',') {
        unsigned pid = (unsigned)strtoul(at, (char **)&at, 10);
        if (processes != NULL && found < room)
            processes[found] = (process_t){pid, 5ULL << 30, says("mig") ? 9 : ~0u, says("mig") ? 0 : ~0u};
        found++;
    }
    *count = found;
    return processes == NULL && found ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlEventSetCreate(void **set) { *set = registered; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceRegisterEvents(device_t *device, unsigned long long types, void *set) {
    (void)set;
    registered[device->index] = (types & 8) != 0;
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout) {
    static int told;
    const char *at = strstr(words(), "xid=");
    int xid = at ? atoi(at + 4) : 0;
    (void)set;
    if (xid == told || !registered[1]) {
        usleep(timeout * 1000);
        return TIMEOUT;
    }
    told = xid;
    *event = (event_t){&devices[1], 8, (unsigned long long)xid, 0, 0};
    return xid ? SUCCESS : TIMEOUT;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetNvLinkState(device_t *device, unsigned link, unsigned *up) {
    int links = number("links=", -1);
    if (device->index != 0 || links < 0)
        return there(device) ? GPU_IS_LOST : NOT_SUPPORTED;
    *up = !says("dark") && number("down=", -1) != (int)link;
    return (int)link < links ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetNvLinkErrorCounter(device_t *device, unsigned link, int counter, unsigned long long *count) {
    (void)device;
    *count = counter == 3 && link == 0 ? (unsigned long long)number("crc=", 0) : 0;
    return says("mute") ? NO_PERMISSION : SUCCESS;
}

int nvmlDeviceGetFieldValues(device_t *device, int count, field_t *fields) {
    (void)device;
    for (int i = 0; i < count; i++) {
        fields[i].rc = fields[i].id == 164 && !says("mute") ? SUCCESS : NOT_SUPPORTED;
        fields[i].type = 1;
        fields[i].value = 26562;
    }
    return count ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetMigMode(device_t *device, unsigned *now, unsigned *next) {
    *now = *next = says("mig");
    return device->index == 0 ? SUCCESS : there(device) ? GPU_IS_LOST : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *count) { *count = 7; return there(device); }

static device_t parts[2] = {{70}, {90}}; /* MIG instances: ten times the id of their GPU instance */

int nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned index, device_t **part) {
    (void)device;
    *part = &parts[index == 2];
    return says("blind") ? NO_PERMISSION : index == 0 || index == 2 ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(device_t *part, unsigned *id) { *id = part->index / 10; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(device_t *part, unsigned *id) { (void)part; *id = 0; return SUCCESS; }

int nvmlDeviceGetMemoryInfo_v2(device_t *device, memory_v2_t *memory) {
    if (memory->version != 0x02000028)
        return 25; /* argument version mismatch */
    if (device->index >= 8) {
        memory->total = 40ULL << 30;
        memory->used = 3ULL << 30;
        return device->index == 70 ? SUCCESS : NO_PERMISSION;
    }
    memory->total = 80ULL << 30;
    memory->reserved = 1ULL << 30;
    memory->used = 20ULL << 30;
    memory->free = 59ULL << 30;
    return there(device);
}

int nvmlDeviceGetEnforcedPowerLimit(device_t *device, unsigned *milliwatts) {
    *milliwatts = 400000;
    return there(device);
}

int nvmlDeviceGetCurrentClocksEventReasons(device_t *device, unsigned long long *reasons) {
    *reasons = device->index == 0 ? 0x1 : 0x4 | 0x40; /* idle; power cap and heat */
    return there(device);
}

int nvmlDeviceGetRemappedRows(device_t *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    *corrected = 1;
    *uncorrected = 2;
    *pending = *failed = 0;
    return there(device);
}
#endif
