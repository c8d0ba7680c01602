/* A stand-in of the NVIDIA driver (libcuda.so.1) on host memory, so that device code runs where there is no GPU.
 *
 * It does what it is told: work waits in its stream until somebody waits for the stream, a capture records work in
 * place of queueing it, and launching a graph queues what was recorded, no more. So answers are wrong where a copy is
 * missing from a graph or nobody waited. Addresses of the device are no addresses of the host: reading one crashes.
 * What real drivers refuse is refused: calls without a current context, unknown pointers, copies across the end of an
 * allocation, allocating or waiting while a stream is captured.
 *
 * It is told by the environment, read at each call:
 *   FAKE_CUDA_FAIL=NAME:CODE[:N]  the call NAME (as exported here) returns CODE, after letting N calls pass
 *   FAKE_CUDA_INTEGRATED=1        the GPU shares the memory of the host
 *   FAKE_CUDA_DEVICES=N           how many GPUs there are (1)
 *   FAKE_CUDA_MEMORY=BYTES        what a GPU holds (1 GiB)
 *   FAKE_CUDA_WITHOUT=NAME        cuda-python does not find this function, as in an older driver
 * and asked by the functions whose names begin with fake_cuda_.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Pointer;          /* an address of the device */
typedef void (*HostFunction)(void *);

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, UNKNOWN = 999,
};
static const struct { Result code; const char *name, *text; } ERRORS[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to an error in capture"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

typedef struct Work {              /* a copy (run is NULL) or a function of the host */
    void *to;
    const void *from;
    size_t size;
    int to_device;
    HostFunction run;
    struct Work *next;
} Work;
typedef struct Thing {             /* whatever has to be freed */
    const char *kind;              /* "memory", "pinned", "stream", "graph", "executable" */
    char *at;                      /* of memory */
    size_t size;
    int mapped, capturing, broken; /* of pinned memory; of streams */
    Work *work, *recorded;         /* queued in a stream; recorded by its capture, or in a graph */
    struct Thing *next;
} Thing;

#define DEVICE_BIT (1ull << 60)
static Thing *things;
static int initialised, captures;
static Result sticky;              /* after a fault on the device every call fails */
static struct { int retained; } contexts[8];
static _Thread_local void *stack[32];
static _Thread_local int depth;
static struct { char name[40]; long calls; } counts[128];

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}

static long *count(const char *name) {
    int i = 0;
    while (counts[i].name[0] && strcmp(counts[i].name, name)) i++;
    snprintf(counts[i].name, sizeof counts[i].name, "%s", name);
    return &counts[i].calls;
}

static Result enter(const char *name, int needs_context) {
    const char *told = getenv("FAKE_CUDA_FAIL");
    size_t length = strlen(name);
    long calls = (*count(name))++;
    if (told && !strncmp(told, name, length) && told[length] == ':') {
        char *rest;
        Result code = strtol(told + length + 1, &rest, 10);
        if (calls >= (*rest == ':' ? atol(rest + 1) : 0)) return code;
    }
    if (sticky) return sticky;
    if (!initialised && strcmp(name, "cuInit")) return NOT_INITIALIZED;
    return needs_context && !depth ? INVALID_CONTEXT : OK;
}
#define ENTER(needs_context) \
    do { Result refused = enter(__func__, needs_context); if (refused) return refused; } while (0)

static Thing *add(const char *kind, size_t size) {
    Thing *thing = calloc(1, sizeof *thing);
    thing->kind = kind;
    thing->size = size;
    thing->at = size ? malloc(size) : NULL;
    if (thing->at) memset(thing->at, 0xA5, size);
    thing->next = things;
    return things = thing;
}

static Thing *known(const char *kind, const void *handle) {
    for (Thing *thing = things; thing; thing = thing->next)
        if (thing == handle && thing->kind == kind) return thing;
    return NULL;
}

static void forget_work(Work **work) {
    while (*work) {
        Work *next = (*work)->next;
        free(*work);
        *work = next;
    }
}

static Result drop(const char *kind, const void *handle, const void *at) {
    for (Thing **link = &things; *link; link = &(*link)->next) {
        Thing *thing = *link;
        if (thing->kind != kind || (handle ? thing != handle : thing->at != at)) continue;
        *link = thing->next;
        forget_work(&thing->work);
        forget_work(&thing->recorded);
        captures -= thing->capturing;
        if (thing->at) memset(thing->at, 0xDD, thing->size); /* what is freed is no longer right */
        free(thing->at);
        free(thing);
        return OK;
    }
    return handle ? INVALID_HANDLE : INVALID_VALUE;
}
static const char MEMORY[] = "memory", PINNED[] = "pinned";
static const char STREAM[] = "stream", GRAPH[] = "graph", EXECUTABLE[] = "executable";

/* Where the device's bytes are; NULL where they are not wholly inside one live allocation. */
void *fake_cuda_host(Pointer pointer, size_t size) {
    if (!(pointer & DEVICE_BIT)) return NULL;
    char *at = (char *)(uintptr_t)(pointer & ~DEVICE_BIT);
    for (Thing *thing = things; thing; thing = thing->next)
        if ((thing->kind == MEMORY || (thing->kind == PINNED && thing->mapped)) && at >= thing->at &&
            at + size <= thing->at + thing->size)
            return at;
    return NULL;
}
static Pointer of_device(const char *at) { return (Pointer)(uintptr_t)at | DEVICE_BIT; }

/* How many of a kind are not freed; "context" counts what is retained, "stack" this thread's current contexts. */
long fake_cuda_live(const char *kind) {
    long live = 0;
    if (!strcmp(kind, "stack")) return depth;
    if (!strcmp(kind, "context")) {
        for (int i = 0; i < 8; i++) live += contexts[i].retained;
        return live;
    }
    for (Thing *thing = things; thing; thing = thing->next) live += !strcmp(thing->kind, kind);
    return live;
}
long fake_cuda_calls(const char *name) { return *count(name); }
/* Begin anew: forget faults and counts, and free what was left. */
void fake_cuda_reset(void) {
    memset(counts, 0, sizeof counts);
    sticky = OK;
    while (things) drop(things->kind, things, NULL);
}

/* ---- the driver and its devices ---- */
Result cuInit(unsigned flags) {
    ENTER(0);
    if (flags) return INVALID_VALUE;
    if (setting("FAKE_CUDA_DEVICES", 1) == 0) return NO_DEVICE;
    initialised = 1;
    return OK;
}
Result cuDriverGetVersion(int *version) { *version = 13000; return OK; }
Result cuDeviceGetCount(int *number) { ENTER(0); *number = setting("FAKE_CUDA_DEVICES", 1); return OK; }
Result cuDeviceGet(int *device, int index) {
    ENTER(0);
    *device = index;
    return index >= 0 && index < setting("FAKE_CUDA_DEVICES", 1) ? OK : INVALID_DEVICE;
}
Result cuDeviceGetName(char *name, int length, int device) {
    ENTER(0);
    snprintf(name, length, "Stand-in GPU %d", device);
    return OK;
}
Result cuDeviceComputeCapability(int *major, int *minor, int device) {
    ENTER(0);
    (void)device;
    *major = 8;
    *minor = 7;
    return OK;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER(0);
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? setting("FAKE_CUDA_INTEGRATED", 0) : 1;
    return OK;
}
Result cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER(0);
    contexts[device].retained++;
    *context = &contexts[device];
    return OK;
}
Result cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(0);
    if (!contexts[device].retained) return INVALID_CONTEXT;
    contexts[device].retained--; /* and pops no stack, as the real one */
    return OK;
}
Result cuCtxPushCurrent_v2(void *context) {
    ENTER(0);
    if (!context || depth == 32) return INVALID_VALUE;
    for (int i = 0; i < 8; i++)
        if (context == &contexts[i] && !contexts[i].retained) return INVALID_CONTEXT;
    stack[depth++] = context;
    return OK;
}
Result cuCtxPopCurrent_v2(void **context) {
    ENTER(1);
    void *popped = stack[--depth];
    if (context) *context = popped;
    return OK;
}
Result cuGetErrorName(Result code, const char **name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) { *name = ERRORS[i].name; return OK; }
    *name = NULL;
    return INVALID_VALUE;
}
Result cuGetErrorString(Result code, const char **text) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) { *text = ERRORS[i].text; return OK; }
    *text = "unknown error";
    return OK;
}

/* ---- memory ---- */
static Result refused_in_capture(void) { /* a thread-local capture forbids its thread what may wait for the device */
    if (!captures) return OK;
    for (Thing *thing = things; thing; thing = thing->next) thing->broken |= thing->capturing;
    return CAPTURE_UNSUPPORTED;
}
#define NOT_IN_CAPTURE() do { Result refused = refused_in_capture(); if (refused) return refused; } while (0)

Result cuMemAlloc_v2(Pointer *pointer, size_t size) {
    ENTER(1);
    NOT_IN_CAPTURE();
    size_t used = size;
    for (Thing *thing = things; thing; thing = thing->next) used += thing->kind == MEMORY ? thing->size : 0;
    if (used > (size_t)setting("FAKE_CUDA_MEMORY", 1l << 30)) return OUT_OF_MEMORY;
    if (!size) return INVALID_VALUE;
    *pointer = of_device(add(MEMORY, size)->at);
    return OK;
}
Result cuMemFree_v2(Pointer pointer) {
    ENTER(1);
    NOT_IN_CAPTURE();
    return drop(MEMORY, NULL, (void *)(uintptr_t)(pointer & ~DEVICE_BIT));
}
Result cuMemHostAlloc(void **at, size_t size, unsigned flags) {
    ENTER(1);
    NOT_IN_CAPTURE();
    if (!size) return INVALID_VALUE;
    Thing *pinned = add(PINNED, size);
    pinned->mapped = (flags & 2) != 0;
    *at = pinned->at;
    return OK;
}
Result cuMemFreeHost(void *at) { ENTER(1); NOT_IN_CAPTURE(); return drop(PINNED, NULL, at); }
Result cuMemHostGetDevicePointer_v2(Pointer *pointer, void *at, unsigned flags) {
    ENTER(1);
    for (Thing *thing = things; thing; thing = thing->next)
        if (thing->kind == PINNED && thing->at == at && thing->mapped && !flags) {
            *pointer = of_device(at);
            return OK;
        }
    return INVALID_VALUE;
}

/* ---- streams and graphs ---- */
static void append(Work **work, Work item) {
    while (*work) work = &(*work)->next;
    *work = malloc(sizeof item);
    item.next = NULL;
    **work = item;
}
static Result give(void *handle, Work item) {
    Thing *stream = known(STREAM, handle);
    if (!stream) return INVALID_HANDLE;
    append(stream->capturing ? &stream->recorded : &stream->work, item);
    return OK;
}
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t size, void *stream) {
    ENTER(1);
    if (!fake_cuda_host(to, size)) return INVALID_VALUE;
    return give(stream, (Work){.to = (void *)(uintptr_t)to, .from = from, .size = size, .to_device = 1});
}
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t size, void *stream) {
    ENTER(1);
    if (!fake_cuda_host(from, size)) return INVALID_VALUE;
    return give(stream, (Work){.to = to, .from = (void *)(uintptr_t)from, .size = size});
}
Result cuLaunchHostFunc(void *stream, HostFunction run, void *data) {
    ENTER(1);
    return give(stream, (Work){.run = run, .to = data});
}

static Result perform(Thing *stream) {
    while (stream->work && !sticky) {
        Work item = *stream->work;
        free(stream->work);
        stream->work = item.next;
        void *to = item.to_device ? fake_cuda_host((Pointer)(uintptr_t)item.to, item.size) : item.to;
        const void *from = item.to_device ? item.from : fake_cuda_host((Pointer)(uintptr_t)item.from, item.size);
        if (item.run) item.run(item.to);
        else if (to && from) memcpy(to, from, item.size);
        else sticky = ILLEGAL_ADDRESS;
    }
    return sticky;
}
Result cuStreamCreate(void **stream, unsigned flags) {
    ENTER(1);
    *count("non-blocking") += flags == 1;
    *stream = add(STREAM, 0);
    return OK;
}
Result cuStreamDestroy_v2(void *stream) { ENTER(1); return drop(STREAM, stream, NULL); }
Result cuStreamSynchronize(void *handle) {
    ENTER(1);
    NOT_IN_CAPTURE();
    Thing *stream = known(STREAM, handle);
    return stream ? perform(stream) : INVALID_HANDLE;
}
Result cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER(1);
    Thing *stream = known(STREAM, handle);
    if (!stream) return INVALID_HANDLE;
    *count("thread-local") += mode == 1;
    stream->broken = 0;
    stream->capturing = 1;
    captures++;
    return OK;
}
Result cuStreamEndCapture(void *handle, void **graph) {
    Thing *stream = known(STREAM, handle), *recorded;
    if (!stream || !stream->capturing) return INVALID_HANDLE;
    stream->capturing = 0; /* whatever else happens */
    captures--;
    Work *work = stream->recorded;
    stream->recorded = NULL;
    *graph = NULL;
    Result refused = enter("cuStreamEndCapture", 1);
    if (refused || stream->broken) {
        forget_work(&work);
        return refused ? refused : CAPTURE_INVALIDATED;
    }
    recorded = add(GRAPH, 0);
    recorded->recorded = work;
    *graph = recorded;
    return OK;
}
Result cuGraphInstantiateWithFlags(void **executable, void *handle, unsigned long long flags) {
    ENTER(1);
    Thing *graph = known(GRAPH, handle);
    if (!graph || flags) return INVALID_VALUE;
    Thing *made = add(EXECUTABLE, 0);
    for (Work *item = graph->recorded; item; item = item->next) append(&made->recorded, *item);
    *executable = made;
    return OK;
}
Result cuGraphLaunch(void *handle, void *stream) {
    ENTER(1);
    Thing *executable = known(EXECUTABLE, handle);
    if (!executable) return INVALID_VALUE;
    for (Work *item = executable->recorded; item; item = item->next)
        if (give(stream, *item)) return INVALID_HANDLE;
    return OK;
}
Result cuGraphDestroy(void *graph) { ENTER(1); return drop(GRAPH, graph, NULL); }
Result cuGraphExecDestroy(void *executable) { ENTER(1); return drop(EXECUTABLE, executable, NULL); }

/* ---- how cuda-python finds the functions: by name without version ---- */
Result cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static void *self;
    static const char *SUFFIXES[] = {"_v2", ""};
    Dl_info info;
    (void)version, (void)flags;
    if (!self && dladdr((void *)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *found = NULL;
    if (getenv("FAKE_CUDA_WITHOUT") && !strcmp(getenv("FAKE_CUDA_WITHOUT"), name)) return NOT_FOUND;
    for (size_t i = 0; i < 2 && !*found; i++) {
        char versioned[128];
        snprintf(versioned, sizeof versioned, "%s%s", name, SUFFIXES[i]);
        *found = dlsym(self, versioned);
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}
Result cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}

/* ---- what pycuda links against and edgead never calls ---- */
#define ABSENT(name) Result name(void) { return NOT_SUPPORTED; }
ABSENT(cuArray3DCreate_v2) ABSENT(cuArray3DGetDescriptor_v2) ABSENT(cuArrayCreate_v2) ABSENT(cuArrayDestroy)
ABSENT(cuCtxCreate_v2) ABSENT(cuEventElapsedTime)
ABSENT(cuArrayGetDescriptor_v2) ABSENT(cuCtxAttach) ABSENT(cuCtxCreate_v4) ABSENT(cuCtxDetach)
ABSENT(cuCtxDisablePeerAccess) ABSENT(cuCtxEnablePeerAccess) ABSENT(cuCtxGetApiVersion) ABSENT(cuCtxGetCacheConfig)
ABSENT(cuCtxGetDevice) ABSENT(cuCtxGetLimit) ABSENT(cuCtxGetSharedMemConfig) ABSENT(cuCtxSetCacheConfig)
ABSENT(cuCtxSetLimit) ABSENT(cuCtxSetSharedMemConfig) ABSENT(cuCtxSynchronize) ABSENT(cuDeviceCanAccessPeer)
ABSENT(cuDeviceGetByPCIBusId) ABSENT(cuDeviceGetPCIBusId) ABSENT(cuDeviceTotalMem_v2) ABSENT(cuEventCreate)
ABSENT(cuEventDestroy_v2) ABSENT(cuEventElapsedTime_v2) ABSENT(cuEventQuery) ABSENT(cuEventRecord)
ABSENT(cuEventSynchronize) ABSENT(cuFuncGetAttribute) ABSENT(cuFuncSetAttribute) ABSENT(cuFuncSetBlockShape)
ABSENT(cuFuncSetCacheConfig) ABSENT(cuFuncSetSharedSize) ABSENT(cuIpcCloseMemHandle) ABSENT(cuIpcGetEventHandle)
ABSENT(cuIpcGetMemHandle) ABSENT(cuIpcOpenEventHandle) ABSENT(cuIpcOpenMemHandle_v2) ABSENT(cuLaunch)
ABSENT(cuLaunchGrid) ABSENT(cuLaunchGridAsync) ABSENT(cuLaunchKernel) ABSENT(cuLinkAddData_v2)
ABSENT(cuLinkAddFile_v2) ABSENT(cuLinkComplete) ABSENT(cuLinkCreate_v2) ABSENT(cuLinkDestroy)
ABSENT(cuMemAllocManaged) ABSENT(cuMemAllocPitch_v2) ABSENT(cuMemGetAddressRange_v2) ABSENT(cuMemGetInfo_v2)
ABSENT(cuMemHostGetFlags) ABSENT(cuMemHostRegister_v2) ABSENT(cuMemHostUnregister) ABSENT(cuMemcpy2DAsync_v2)
ABSENT(cuMemcpy2DUnaligned_v2) ABSENT(cuMemcpy2D_v2) ABSENT(cuMemcpy3DAsync_v2) ABSENT(cuMemcpy3DPeer)
ABSENT(cuMemcpy3DPeerAsync) ABSENT(cuMemcpy3D_v2) ABSENT(cuMemcpyAtoA_v2) ABSENT(cuMemcpyAtoD_v2)
ABSENT(cuMemcpyAtoH_v2) ABSENT(cuMemcpyDtoA_v2) ABSENT(cuMemcpyDtoDAsync_v2) ABSENT(cuMemcpyDtoD_v2)
ABSENT(cuMemcpyDtoH_v2) ABSENT(cuMemcpyHtoA_v2) ABSENT(cuMemcpyHtoD_v2) ABSENT(cuMemcpyPeer) ABSENT(cuMemcpyPeerAsync)
ABSENT(cuMemsetD16Async) ABSENT(cuMemsetD16_v2) ABSENT(cuMemsetD2D16Async) ABSENT(cuMemsetD2D16_v2)
ABSENT(cuMemsetD2D32Async) ABSENT(cuMemsetD2D32_v2) ABSENT(cuMemsetD2D8Async) ABSENT(cuMemsetD2D8_v2)
ABSENT(cuMemsetD32Async) ABSENT(cuMemsetD32_v2) ABSENT(cuMemsetD8Async) ABSENT(cuMemsetD8_v2)
ABSENT(cuModuleGetFunction) ABSENT(cuModuleGetGlobal_v2) ABSENT(cuModuleGetSurfRef) ABSENT(cuModuleGetTexRef)
ABSENT(cuModuleLoad) ABSENT(cuModuleLoadData) ABSENT(cuModuleLoadDataEx) ABSENT(cuModuleUnload) ABSENT(cuParamSetSize)
ABSENT(cuParamSetTexRef) ABSENT(cuParamSetf) ABSENT(cuParamSeti) ABSENT(cuParamSetv) ABSENT(cuProfilerInitialize)
ABSENT(cuProfilerStart) ABSENT(cuProfilerStop) ABSENT(cuStreamAttachMemAsync) ABSENT(cuStreamQuery)
ABSENT(cuStreamWaitEvent) ABSENT(cuSurfRefGetArray) ABSENT(cuSurfRefSetArray) ABSENT(cuTexRefCreate)
ABSENT(cuTexRefDestroy) ABSENT(cuTexRefGetAddressMode) ABSENT(cuTexRefGetAddress_v2) ABSENT(cuTexRefGetArray)
ABSENT(cuTexRefGetFilterMode) ABSENT(cuTexRefGetFlags) ABSENT(cuTexRefGetFormat) ABSENT(cuTexRefSetAddress2D_v3)
ABSENT(cuTexRefSetAddressMode) ABSENT(cuTexRefSetAddress_v2) ABSENT(cuTexRefSetArray) ABSENT(cuTexRefSetFilterMode)
ABSENT(cuTexRefSetFlags) ABSENT(cuTexRefSetFormat)
