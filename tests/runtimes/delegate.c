/* A delegate of TensorFlow Lite that takes every NEG operator, as an accelerator on a board would, and negates.
   Built with -DABSENT it finds no device; with -DIDLE it takes nothing. Layouts: tensorflow/lite/core/c/common.h. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef int Status;
typedef struct { int size; int data[]; } Ints;
typedef struct Context Context;
typedef struct Node Node;
typedef struct Delegate Delegate;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  Status (*prepare)(Context *, Node *);
  Status (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
typedef struct { int type; void *data; Ints *dims; float scale; int32_t zero_point; int allocation; size_t bytes; } Tensor;
struct Node { Ints *inputs, *outputs; };
struct Context {
  size_t tensors_size;
  Status (*GetExecutionPlan)(Context *, Ints **);
  char *tensors;
  void *impl_;
  Status (*ResizeTensor)(Context *, void *, Ints *);
  void (*ReportError)(Context *, const char *, ...);
  Status (*AddTensors)(Context *, int, int *);
  Status (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
  Status (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const Ints *, Delegate *);
};
struct Delegate {
  void *data_;
  Status (*Prepare)(Context *, Delegate *);
  void *from, *to, *release;
  int64_t flags;
  void *opaque;
};

enum { NEG = 59, TENSOR_BYTES = 112, FLOATS = 4 };

static Tensor *tensor(Context *context, int index) { return (Tensor *)(context->tensors + TENSOR_BYTES * index); }
static Status ready(Context *context, Node *node) { return 0; }
static Status negate(Context *context, Node *node) {
  float *in = tensor(context, node->inputs->data[0])->data, *out = tensor(context, node->outputs->data[0])->data;
  for (int i = 0; i < FLOATS; i++) out[i] = -in[i];
  return 0;
}
static Status take(Context *context, Delegate *delegate) {
  Ints *plan, *taken;
  if (context->GetExecutionPlan(context, &plan)) return 1;
  taken = calloc(1, sizeof(Ints) + sizeof(int) * plan->size);
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration)) return 1;
#ifndef IDLE
    if (registration->builtin_code == NEG) taken->data[taken->size++] = plan->data[i];
#endif
  }
  Registration own = {.prepare = ready, .invoke = negate, .custom_name = "Double", .version = 1};
  Status status = context->ReplaceNodeSubsetsWithDelegateKernels(context, own, taken, delegate);
  free(taken);
  return status;
}
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
#ifdef ABSENT
  report("no device is plugged in");
  return NULL;
#endif
  Delegate *made = calloc(1, sizeof(Delegate));
  made->Prepare = take;
  return made;
}
void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
