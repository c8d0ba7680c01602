// Runs the area kernel of one processor as a program, so that an emulator can: sizes and pixels in, pixels out.
// Built together with edgead/_native/area.cpp: tests/test_native.py.
#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" const char* edgead_area_version(int version);
extern "C" int edgead_area_resize(int version, const uint8_t* source, int64_t height, int64_t width, int64_t channels,
                                  int64_t source_stride, uint8_t* target, int64_t target_height, int64_t target_width,
                                  int64_t target_stride, int swap);

int main() {
  int64_t head[6];  // height, width, channels, target height, target width, swap
  std::fprintf(stderr, "%s\n", edgead_area_version(0));
  while (std::fread(head, sizeof head, 1, stdin) == 1) {
    std::vector<uint8_t> source(head[0] * head[1] * head[2]), target(head[3] * head[4] * 3);
    if (std::fread(source.data(), 1, source.size(), stdin) != source.size()) return 2;
    if (edgead_area_resize(0, source.data(), head[0], head[1], head[2], head[1] * head[2], target.data(), head[3],
                           head[4], head[4] * 3, head[5] != 0))
      return 3;
    std::fwrite(target.data(), 1, target.size(), stdout);
  }
}
