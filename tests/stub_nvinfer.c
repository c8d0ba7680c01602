/* What NVIDIA's Python bindings need of libnvinfer, libnvonnxparser, libnvinfer_plugin and libnvparsers to be imported.
 *
 * The bindings are 1 MB, the libraries 2 GB and not on PyPI. With these symbols the bindings import on any machine, and
 * their classes can be asked for their methods. Nothing can be built or run: every factory answers with null.
 */

#include <stddef.h>

#define FACTORY(name) \
    void *name(void) { return NULL; }
#define NOTHING(name) \
    void name(void) {}

FACTORY(createInferBuilder_INTERNAL)
FACTORY(createInferRefitter_INTERNAL)
FACTORY(createInferRuntime_INTERNAL)
FACTORY(createNvOnnxParser_INTERNAL)
FACTORY(createNvOnnxParserRefitter_INTERNAL)
FACTORY(getBuilderPluginRegistry)
FACTORY(getPluginRegistry)

int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }

/* TensorRT 8 still reads Caffe and UFF: C++ names, as the compiler writes them. */
FACTORY(_ZN11nvuffparser15createUffParserEv)
FACTORY(_ZN14nvcaffeparser117createCaffeParserEv)
NOTHING(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
NOTHING(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
