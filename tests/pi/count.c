/* A QEMU plugin that counts executed guest instructions, and those of Arm's dot product, between two marks. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* What is used of QEMU's plugin interface, version 1 (docs/devel/tcg-plugins): Debian ships no header of it. */
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0 };
typedef void on_translation(plugin_id, struct qemu_plugin_tb *);
typedef void on_syscall(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translation *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { CLOSE = 57, MARK = -4242 }; /* the guest's mark is close(-4242), which Linux refuses and nobody else calls */

static uint64_t executed, products;
static FILE *told;

static int is_dot_product(uint32_t word) /* Arm ARM: SDOT and UDOT, by vector and by element */
{
    return (word & 0x9fe0fc00) == 0x0e809400 || (word & 0x9fc0f400) == 0x0f80e000;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    size_t count = qemu_plugin_tb_n_insns(block), found = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found += is_dot_product(word);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed, count);
    if (found)
        qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &products, found);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number == CLOSE && (int32_t)a == MARK) {
        fprintf(told, "%llu %llu\n", (unsigned long long)executed, (unsigned long long)products);
        fflush(told);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    told = argc == 1 && strncmp(argv[0], "out=", 4) == 0 ? fopen(argv[0] + 4, "w") : NULL;
    if (!told)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
