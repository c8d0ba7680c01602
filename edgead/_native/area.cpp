// Antialiased area resize of uint8 images: an output pixel is the mean of the box of the input that it covers, parts of
// pixels by their share. One pass: rows are averaged first, then columns, then the result goes straight into its slot.
//
// With F = in / out rounded down, a box begins in some pixel, holds F - 1 whole ones and ends in the next or the one
// after it. So every box has F + 2 taps, of which only three have weights of their own, and no loop depends on pixels.
//
// The loops are plain, for the compiler to vectorise; on x86 they are compiled three times and the CPU chooses. Products
// and sums are not contracted (-ffp-contract=off), so all versions, on all processors, give the same bytes.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

typedef float Pixel __attribute__((vector_size(16)));  // three channels, and a fourth lane that nobody reads

// Where a box begins, and the shares of its first pixel, of pixel F and of pixel F + 1, each divided by the box's size.
struct Box {
  int64_t first;
  float begin, end, after;
};

struct Job {
  const uint8_t* source;
  int64_t height, width, source_stride;
  uint8_t* target;
  int64_t target_height, target_width, target_stride;
};

constexpr int64_t BLOCK = 1024;   // sums of rows stay in the first cache
constexpr int64_t SHORT = 65535 / 255;  // rows whose sum 16 bits hold

INLINE Box box(int64_t index, int64_t in, int64_t out) {
  const int64_t from = index * in, to = from + in, first = from / out;
  const float rest = static_cast<float>(to % out) / static_cast<float>(in);
  const float whole = static_cast<float>(out) / static_cast<float>(in);
  const bool longer = to / out - first > in / out;
  return {first, static_cast<float>(out - from % out) / static_cast<float>(in), longer ? whole : rest, longer ? rest : 0};
}

template <int rows, bool more, typename Sum>
INLINE void add(Sum* __restrict sum, const uint8_t* row, int64_t stride, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Sum total = row[i];
    for (int k = 1; k < rows; ++k) total = static_cast<Sum>(total + row[k * stride + i]);
    sum[i] = static_cast<Sum>(more ? sum[i] + total : total);
  }
}

// Sum rows > 0 rows.
template <typename Sum>
INLINE void sum_of(Sum* __restrict sum, const uint8_t* row, int64_t stride, int64_t rows, int64_t count) {
  switch (rows % 4) {
    case 0: add<4, false>(sum, row, stride, count); break;
    case 1: add<1, false>(sum, row, stride, count); break;
    case 2: add<2, false>(sum, row, stride, count); break;
    default: add<3, false>(sum, row, stride, count); break;
  }
  for (int64_t k = rows % 4 ? rows % 4 : 4; k < rows; k += 4) add<4, true>(sum, row + k * stride, stride, count);
}

template <typename Sum>
INLINE void average(float* __restrict line, const Job& job, const Box& rows, int64_t bytes) {
  const int64_t full = job.height / job.target_height, stride = job.source_stride, last = job.height - 1;
  const float whole = static_cast<float>(job.target_height) / static_cast<float>(job.height);
  const int64_t ends = rows.first + full, after = ends + 1;
  const bool even = job.height % job.target_height == 0;
  const uint8_t* a = job.source + rows.first * stride;
  const uint8_t* b = job.source + (ends < last ? ends : last) * stride;  // past the end where its share is 0
  const uint8_t* c = job.source + (after < last ? after : last) * stride;
  const float p = rows.begin, q = rows.end, r = rows.after;
  for (int64_t at = 0; at < bytes; at += BLOCK, a += BLOCK, b += BLOCK, c += BLOCK, line += BLOCK) {
    const int64_t count = bytes - at < BLOCK ? bytes - at : BLOCK;
    Sum sum[BLOCK];
    if (even) {
      sum_of(sum, a, stride, full, count);
      for (int64_t i = 0; i < count; ++i) line[i] = sum[i] * whole;
      continue;
    }
    if (full > 1) sum_of(sum, a + stride, stride, full - 1, count);
    if (full == 1) {
      for (int64_t i = 0; i < count; ++i) line[i] = (a[i] * p + b[i] * q) + c[i] * r;
    } else if (r == 0) {
      for (int64_t i = 0; i < count; ++i) line[i] = (a[i] * p + b[i] * q) + sum[i] * whole;
    } else {
      for (int64_t i = 0; i < count; ++i) line[i] = ((a[i] * p + b[i] * q) + c[i] * r) + sum[i] * whole;
    }
  }
}

INLINE Pixel load(const float* from) {
  Pixel pixel;
  std::memcpy(&pixel, from, sizeof pixel);
  return pixel;
}

// Sum count pixels; known, if it is not 0, is count, and then there is no loop.
template <int channels, int known>
INLINE Pixel sum_of(const float* at, int64_t count) {
  Pixel odd = {}, even = {};
  const int64_t number = known ? known : count;
  int64_t k = 0;
  for (; k + 1 < number; k += 2, at += 2 * channels) odd += load(at), even += load(at + channels);
  if (k < number) odd += load(at);
  return odd + even;
}

// Average columns where boxes begin between pixels, or, if even, where none does.
template <int channels, bool swap, bool even, int known>
INLINE void columns(float* __restrict result, const float* __restrict line, const Box* boxes, const Job& job) {
  const int64_t full = known ? known : job.width / job.target_width;
  const float whole = static_cast<float>(job.target_width) / static_cast<float>(job.width);
  for (int64_t x = 0; x < job.target_width; ++x, result += 3) {
    Pixel mean;
    if (even) {
      mean = sum_of<channels, known>(line + x * full * channels, full) * whole;
    } else {
      const float* at = line + boxes[x].first * channels;
      const float* end = at + full * channels;
      mean = (load(at) * boxes[x].begin + load(end) * boxes[x].end) + load(end + channels) * boxes[x].after;
      if (known != 1) mean += sum_of<channels, known ? known - 1 : 0>(at + channels, full - 1) * whole;
    }
    if (channels == 1) mean = Pixel{mean[0], mean[0], mean[0], mean[0]};
    if (swap) mean = Pixel{mean[2], mean[1], mean[0], mean[3]};
    std::memcpy(result, &mean, sizeof mean);
  }
}

template <int channels, bool swap, bool even>
INLINE void columns(float* __restrict result, const float* __restrict line, const Box* boxes, const Job& job) {
  switch (job.width / job.target_width) {  // what shrinks little has many columns, and no time for loops
    case 1: columns<channels, swap, even, 1>(result, line, boxes, job); break;
    case 2: columns<channels, swap, even, 2>(result, line, boxes, job); break;
    case 3: columns<channels, swap, even, 3>(result, line, boxes, job); break;
    case 4: columns<channels, swap, even, 4>(result, line, boxes, job); break;
    default: columns<channels, swap, even, 0>(result, line, boxes, job);
  }
}

template <int channels, bool swap>
INLINE bool resize(const Job& job) {
  const int64_t bytes = job.width * channels, out = job.target_width * 3, past = 2 * channels + 4;
  const size_t floats = static_cast<size_t>(bytes + past + out + 4);
  const size_t size = static_cast<size_t>(job.target_width) * sizeof(Box) + floats * sizeof(float);
  void* memory = std::malloc(size);
  if (memory == nullptr) return false;
  Box* boxes = static_cast<Box*>(memory);
  float* line = reinterpret_cast<float*>(boxes + job.target_width);
  float* result = line + bytes + past;
  for (int64_t x = 0; x < job.target_width; ++x) boxes[x] = box(x, job.width, job.target_width);
  std::memset(line + bytes, 0, static_cast<size_t>(past) * sizeof(float));
  for (int64_t y = 0; y < job.target_height; ++y) {
    const Box rows = box(y, job.height, job.target_height);
    if (job.height / job.target_height <= SHORT) {
      average<uint16_t>(line, job, rows, bytes);
    } else {
      average<uint32_t>(line, job, rows, bytes);
    }
    if (job.width % job.target_width == 0) {
      columns<channels, swap, true>(result, line, boxes, job);
    } else {
      columns<channels, swap, false>(result, line, boxes, job);
    }
    uint8_t* target = job.target + y * job.target_stride;
    for (int64_t i = 0; i < out; ++i) target[i] = static_cast<uint8_t>(static_cast<int32_t>(result[i] + 0.5f));
  }
  std::free(memory);
  return true;
}

INLINE bool choose(const Job& job, int channels, bool swap) {
  if (channels == 1) return resize<1, false>(job);
  return swap ? resize<3, true>(job) : resize<3, false>(job);
}

bool plain(const Job& job, int channels, bool swap) { return choose(job, channels, swap); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) bool avx2(const Job& job, int channels, bool swap) {
  return choose(job, channels, swap);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) bool avx512(const Job& job, int channels, bool swap) {
  return choose(job, channels, swap);
}
#endif

}  // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

// Return the name of a version, 0 being the one for every processor; null where this processor does not run it.
PUBLIC const char* edgead_area_version(int version) {
#if defined(__x86_64__)
  if (version == 0) return "sse2";
  if (version == 1 && __builtin_cpu_supports("avx2")) return "avx2";
  if (version == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "avx512";
#elif defined(__aarch64__)
  if (version == 0) return "neon";
#else
  if (version == 0) return "plain";
#endif
  return nullptr;
}

// Shrink source (height, width, channels) to target (height, width, 3); strides in bytes from row to row, sizes at least
// one and no target larger than its source. One channel is written three times; swap turns three around. Return 0, or
// 1 where there is no memory.
PUBLIC int edgead_area_resize(int version, const uint8_t* source, int64_t height, int64_t width, int64_t channels,
                              int64_t source_stride, uint8_t* target, int64_t target_height, int64_t target_width,
                              int64_t target_stride, int swap) {
  const Job job = {source, height, width, source_stride, target, target_height, target_width, target_stride};
  const int count = channels == 1 ? 1 : 3;
#if defined(__x86_64__)
  if (version == 2) return avx512(job, count, swap != 0) ? 0 : 1;
  if (version == 1) return avx2(job, count, swap != 0) ? 0 : 1;
#endif
  (void)version;
  return plain(job, count, swap != 0) ? 0 : 1;
}
