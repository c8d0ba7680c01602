"""Build the native resize where there is a C++ compiler; without one OpenCV does its work, and nothing fails."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "edgead._native._area",  # no Python in it: opened by ctypes, so it needs no headers and fits every version
            ["edgead/_native/area.cpp"],
            language="c++",
            # No contraction: all versions of the kernel, on all processors, give the same bytes.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-ffp-contract=off",
                "-fno-exceptions",
                "-fno-rtti",
                "-fvisibility=hidden",
            ],
            optional=True,
        )
    ]
)
