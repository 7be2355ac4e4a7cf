/* A CUDA driver in software, as much of it as the TensorRT backend uses through PyCUDA, so that the real PyCUDA can be tested
   without a GPU. Device memory is the process's own; what is queued on a stream happens when somebody waits for it. A wrong use is
   an error code, as CUDA's own driver gives it, or noted where that would crash or compute garbage. Every other function that
   PyCUDA links against is a stub that answers "not supported". */

#include <cuda.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096, MEMORY = 0, PINNED, STREAM, EVENT, CONTEXT, KINDS };

typedef struct Work {
  void (*call)(void *);
  void *user, *to, *from;
  size_t size;
  struct CUevent_st *event;
  struct Work *next;
} Work;

struct CUstream_st { Work *first, *last; };
struct CUevent_st { CUstream stream; int recorded, done; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *start; size_t size; int kind, mapped; } blocks[MOST];
static int live[KINDS];
static size_t used;
static char noted[65536];
static CUstream streams[MOST];
static char primary;
static __thread CUcontext stack[64];
static __thread int depth;

static void note(const char *form, ...) {
  size_t at = strlen(noted);
  va_list values;
  va_start(values, form);
  vsnprintf(noted + at, sizeof noted - at - 2, form, values);
  va_end(values);
  strcat(noted, "\n");
}

/* What the tests ask. */
int software_live(int kind) { return live[kind]; }
const char *software_noted(void) { return noted; }
int software_current(void) { return depth > 0; }

#define NEEDS_CONTEXT if (!depth) return CUDA_ERROR_INVALID_CONTEXT

static int find(const void *address, size_t size, int kind) {
  for (int i = 0; i < MOST; i++)
    if (blocks[i].start && blocks[i].kind == kind && (char *)address >= blocks[i].start &&
        (char *)address + size <= blocks[i].start + blocks[i].size)
      return i;
  return -1;
}

static void *take(size_t size, int kind, int mapped) {
  char *start = aligned_alloc(256, (size + 255) / 256 * 256);
  for (int i = 0; i < MOST; i++)
    if (!blocks[i].start) {
      blocks[i].start = start, blocks[i].size = size, blocks[i].kind = kind, blocks[i].mapped = mapped;
      memset(start, 0xAA, size);
      live[kind]++;
      if (kind == MEMORY) used += size;
      return start;
    }
  return NULL;
}

static CUresult give_back(void *address, int kind) {
  pthread_mutex_lock(&lock);
  int at = find(address, 0, kind);
  if (at < 0 || blocks[at].start != address) {
    pthread_mutex_unlock(&lock);
    return CUDA_ERROR_INVALID_VALUE;
  }
  char *end = blocks[at].start + blocks[at].size;
  for (int i = 0; i < MOST; i++)
    for (Work *work = streams[i] ? streams[i]->first : NULL; work; work = work->next)
      if ((work->to && (char *)work->to >= blocks[at].start && (char *)work->to < end) ||
          (work->from && (char *)work->from >= blocks[at].start && (char *)work->from < end))
        note("memory freed under a copy that is queued");
  if (kind == MEMORY) used -= blocks[at].size;
  free(blocks[at].start);
  blocks[at].start = NULL;
  live[kind]--;
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}

static void queue(CUstream stream, Work item) {
  Work *work = malloc(sizeof *work);
  *work = item;
  work->next = NULL;
  pthread_mutex_lock(&lock);
  if (stream->last) stream->last->next = work; else stream->first = work;
  stream->last = work;
  pthread_mutex_unlock(&lock);
}

void software_queue(CUstream stream, void (*call)(void *), void *user) { queue(stream, (Work){.call = call, .user = user}); }

static void drain(CUstream stream, CUevent until) {
  for (;;) {
    pthread_mutex_lock(&lock);
    Work *work = until && until->done ? NULL : stream->first;
    if (work && !(stream->first = work->next)) stream->last = NULL;
    pthread_mutex_unlock(&lock); /* a callback may wait for Python's lock, whose holder may wait for this one */
    if (!work) return;
    if (work->call) work->call(work->user);
    if (work->to) memcpy(work->to, work->from, work->size);
    if (work->event) work->event->done = 1;
    free(work);
  }
}

CUresult cuInit(unsigned flags) { return getenv("SOFTWARE_CUDA_NONE") ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) { return snprintf(name, size, "Software GPU"), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_INTEGRATED && getenv("SOFTWARE_CUDA_INTEGRATED");
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char **text) {
  return *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : error == CUDA_ERROR_NO_DEVICE
      ? "no CUDA-capable device is detected" : "an error of the software driver", CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  __sync_fetch_and_add(&live[CONTEXT], 1);
  return *context = (CUcontext)&primary, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (__sync_sub_and_fetch(&live[CONTEXT], 1) == 0)
    for (int kind = 0; kind < CONTEXT; kind++)
      if (live[kind]) note("the context went before %d things of kind %d", live[kind], kind);
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) { return stack[depth++] = context, CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  NEEDS_CONTEXT;
  depth--;
  if (context) *context = stack[depth];
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) { NEEDS_CONTEXT; return *device = 0, CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { NEEDS_CONTEXT; return CUDA_SUCCESS; }

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
  NEEDS_CONTEXT;
  const char *most = getenv("SOFTWARE_CUDA_MEMORY");
  pthread_mutex_lock(&lock);
  int full = most && used + size > strtoul(most, NULL, 10);
  *address = full ? 0 : (CUdeviceptr)take(size, MEMORY, 0);
  pthread_mutex_unlock(&lock);
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree_v2(CUdeviceptr address) { NEEDS_CONTEXT; return give_back((void *)address, MEMORY); }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
  NEEDS_CONTEXT;
  pthread_mutex_lock(&lock);
  *address = take(size, PINNED, flags & CU_MEMHOSTALLOC_DEVICEMAP);
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *address) { NEEDS_CONTEXT; return give_back(address, PINNED); }
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *address, unsigned flags) {
  NEEDS_CONTEXT;
  int at = find(address, 1, PINNED);
  if (at < 0 || !blocks[at].mapped) return CUDA_ERROR_INVALID_VALUE;
  return *device = (CUdeviceptr)address, CUDA_SUCCESS;
}

static CUresult copy(void *to, const void *from, size_t size, CUstream stream, const void *host, const void *device) {
  NEEDS_CONTEXT;
  pthread_mutex_lock(&lock);
  int pinned = find(host, size, PINNED), memory = find(device, size, MEMORY);
  pthread_mutex_unlock(&lock);
  if (pinned < 0) note("a copy of host memory that is not page-locked");
  if (memory < 0) return CUDA_ERROR_INVALID_VALUE;
  queue(stream, (Work){.to = to, .from = (void *)from, .size = size});
  return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
  return copy((void *)to, from, size, stream, from, (void *)to);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy(to, (void *)from, size, stream, to, (void *)from);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  NEEDS_CONTEXT;
  *stream = calloc(1, sizeof **stream);
  pthread_mutex_lock(&lock);
  live[STREAM]++;
  for (int i = 0; i < MOST; i++)
    if (!streams[i]) { streams[i] = *stream; break; }
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  NEEDS_CONTEXT;
  pthread_mutex_lock(&lock);
  if (stream->first) note("a stream freed while it works");
  for (int i = 0; i < MOST; i++)
    if (streams[i] == stream) streams[i] = NULL;
  live[STREAM]--;
  pthread_mutex_unlock(&lock);
  free(stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) { NEEDS_CONTEXT; return drain(stream, NULL), CUDA_SUCCESS; }

CUresult cuEventCreate(CUevent *event, unsigned flags) {
  NEEDS_CONTEXT;
  __sync_fetch_and_add(&live[EVENT], 1);
  return *event = calloc(1, sizeof **event), CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
  NEEDS_CONTEXT;
  __sync_fetch_and_sub(&live[EVENT], 1);
  return free(event), CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  NEEDS_CONTEXT;
  event->stream = stream, event->recorded = 1, event->done = 0;
  return queue(stream, (Work){.event = event}), CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
  NEEDS_CONTEXT;
  if (event->recorded) drain(event->stream, event);
  return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime(float *milliseconds, CUevent begun, CUevent ended) {
  NEEDS_CONTEXT;
  if (!begun->recorded || !ended->recorded) return CUDA_ERROR_INVALID_HANDLE;
  if (!begun->done || !ended->done) return CUDA_ERROR_NOT_READY;
  return *milliseconds = 0.25f, CUDA_SUCCESS;
}
