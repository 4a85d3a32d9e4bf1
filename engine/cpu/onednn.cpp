#include "cpu/onednn.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

extern "C" {
#include <asdm/error.h>
}

using dnnl::memory;

namespace {

/* One engine and stream for the process; both live until it ends. */
dnnl::engine &the_engine() {
    static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

dnnl::stream &the_stream() {
    static dnnl::stream stream(the_engine());
    return stream;
}

} // namespace

namespace {

/* A change of layout before or after the product, where its implementation has one of its own. */
struct conversion {
    dnnl::primitive primitive; /* empty: none */
    memory from, to;
    dnnl_exec_arg_t args[2];
};

} // namespace

struct cpu_product {
    dnnl::primitive primitive;
    memory src, weights, bias, dst, scratch;
    dnnl_exec_arg_t args[5];
    int arg_count;
    conversion in, out;
    size_t src_offset, dst_offset, scratch_bytes; /* in the caller's scratch, after the primitive's own */
    memory::desc plain;
    std::string layout, name;
    cpu_product_shape shape;
};

namespace {

/* ---- differences between oneDNN 2 and 3 */

#if DNNL_VERSION_MAJOR >= 3
struct layout_view {
    memory::dims dims, strides, blocks, order;
};

bool is_opaque(const memory::desc &desc) {
    return desc.get_format_kind() != memory::format_kind::blocked;
}

layout_view view(const memory::desc &desc) {
    return {desc.get_padded_dims(), desc.get_strides(), desc.get_inner_blks(), desc.get_inner_idxs()};
}

dnnl::convolution_forward::primitive_desc make_conv(dnnl::algorithm algorithm, const memory::desc &src,
                                                    const memory::desc &weights, const memory::desc &bias,
                                                    const memory::desc &dst, const memory::dims &strides,
                                                    const memory::dims &before, const memory::dims &after,
                                                    const dnnl::primitive_attr &attr) {
    return dnnl::convolution_forward::primitive_desc(the_engine(), dnnl::prop_kind::forward_inference, algorithm, src,
                                                     weights, bias, dst, strides, before, after, attr);
}

dnnl::matmul::primitive_desc make_matmul(const memory::desc &src, const memory::desc &weights, const memory::desc &bias,
                                         const memory::desc &dst, const dnnl::primitive_attr &attr) {
    return dnnl::matmul::primitive_desc(the_engine(), src, weights, bias, dst, attr);
}

void append_activation(dnnl::post_ops &ops, dnnl::algorithm algorithm, float alpha) {
    ops.append_eltwise(algorithm, alpha, 0.0f);
}
#else
struct layout_view {
    memory::dims dims, strides, blocks, order;
};

bool is_opaque(const memory::desc &desc) {
    return desc.data.format_kind != dnnl_blocked;
}

layout_view view(const memory::desc &desc) {
    const dnnl_memory_desc_t &d = desc.data;
    const dnnl_blocking_desc_t &b = d.format_desc.blocking;
    return {memory::dims(d.padded_dims, d.padded_dims + d.ndims), memory::dims(b.strides, b.strides + d.ndims),
            memory::dims(b.inner_blks, b.inner_blks + b.inner_nblks),
            memory::dims(b.inner_idxs, b.inner_idxs + b.inner_nblks)};
}

dnnl::convolution_forward::primitive_desc make_conv(dnnl::algorithm algorithm, const memory::desc &src,
                                                    const memory::desc &weights, const memory::desc &bias,
                                                    const memory::desc &dst, const memory::dims &strides,
                                                    const memory::dims &before, const memory::dims &after,
                                                    const dnnl::primitive_attr &attr) {
    dnnl::convolution_forward::desc desc(dnnl::prop_kind::forward_inference, algorithm, src, weights, bias, dst,
                                         strides, before, after);
    return dnnl::convolution_forward::primitive_desc(desc, attr, the_engine());
}

dnnl::matmul::primitive_desc make_matmul(const memory::desc &src, const memory::desc &weights, const memory::desc &bias,
                                         const memory::desc &dst, const dnnl::primitive_attr &attr) {
    dnnl::matmul::desc desc(src, weights, bias, dst);
    return dnnl::matmul::primitive_desc(desc, attr, the_engine());
}

void append_activation(dnnl::post_ops &ops, dnnl::algorithm algorithm, float alpha) {
    ops.append_eltwise(1.0f, algorithm, alpha, 0.0f);
}
#endif

/* ---- descriptors */

memory::data_type element_type(const cpu_product_shape &s) {
    return s.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

void append_activation(dnnl::post_ops &ops, enum asdm_activation activation) {
    switch (activation) {
    case ASDM_ACT_SILU:
        append_activation(ops, dnnl::algorithm::eltwise_swish, 1.0f);
        break;
    case ASDM_ACT_QUICK_GELU:
        append_activation(ops, dnnl::algorithm::eltwise_swish, 1.702f);
        break;
    case ASDM_ACT_GELU:
        append_activation(ops, dnnl::algorithm::eltwise_gelu_erf, 0.0f);
        break;
    case ASDM_ACT_GELU_TANH:
        append_activation(ops, dnnl::algorithm::eltwise_gelu_tanh, 0.0f);
        break;
    case ASDM_ACT_RELU:
        append_activation(ops, dnnl::algorithm::eltwise_relu, 0.0f);
        break;
    case ASDM_ACT_NONE:
        break;
    }
}

dnnl::primitive_attr make_attr(const cpu_product_shape &s) {
    dnnl::primitive_attr attr;
    dnnl::post_ops ops;
    append_activation(ops, s.activation);
    if (s.accumulate && !s.winograd) /* winograd's result is added while its layout is changed */
        ops.append_sum(1.0f);
    attr.set_post_ops(ops);
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return attr;
}

/* Equal texts for equal layouts: padded sizes, strides and inner blocks. Winograd's weights have a layout that only the
 * implementation knows; its name and the size tell it. */
std::string describe(const memory::desc &desc, const std::string &implementation) {
    if (is_opaque(desc))
        return implementation + ":" + std::to_string(desc.get_size());
    layout_view v = view(desc);
    std::string text;
    for (const memory::dims *list : {&v.dims, &v.strides, &v.blocks, &v.order}) {
        for (memory::dim n : *list)
            text += std::to_string(n) + ",";
        text += ";";
    }
    return text;
}

void add_arg(cpu_product *p, int index, const memory &argument) {
    p->args[p->arg_count++] = {index, argument.get()};
}

memory unbound(const memory::desc &desc) {
    return memory(desc, the_engine(), nullptr);
}

/* `accumulate`: the converted numbers are added to what is there. */
void set_conversion(conversion *c, const memory::desc &from, const memory::desc &to, bool accumulate) {
    dnnl::primitive_attr attr;
    dnnl::post_ops ops;
    if (accumulate)
        ops.append_sum(1.0f);
    attr.set_post_ops(ops);
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::reorder::primitive_desc pd(the_engine(), from, the_engine(), to, attr);
    if (pd.scratchpad_desc().get_size())
        throw dnnl::error(dnnl_unimplemented, "a change of layout needs scratch");
    c->primitive = dnnl::reorder(pd);
    c->from = unbound(from);
    c->to = unbound(to);
    c->args[0] = {DNNL_ARG_FROM, c->from.get()};
    c->args[1] = {DNNL_ARG_TO, c->to.get()};
}

size_t align(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Changes of layout between the caller's src and dst and the primitive's, and room for the latter. */
template <typename primitive_desc>
void set_conversions(cpu_product *p, const cpu_product_shape &s, const primitive_desc &pd, const memory::desc &src,
                     const memory::desc &dst) {
    p->src_offset = align(pd.scratchpad_desc().get_size());
    p->dst_offset = p->scratch_bytes = p->src_offset;
    if (pd.src_desc() != src) {
        set_conversion(&p->in, src, pd.src_desc(), false);
        p->dst_offset = p->scratch_bytes += align(pd.src_desc().get_size());
    }
    if (pd.dst_desc() != dst) {
        set_conversion(&p->out, pd.dst_desc(), dst, s.accumulate);
        p->scratch_bytes += align(pd.dst_desc().get_size());
    }
}

template <typename primitive_desc> void finish(cpu_product *p, const cpu_product_shape &s, const primitive_desc &pd) {
    p->name = pd.impl_info_str();
    p->layout = describe(pd.weights_desc(), p->name);
    p->src = memory(pd.src_desc(), the_engine(), nullptr);
    p->weights = memory(pd.weights_desc(), the_engine(), nullptr);
    p->dst = memory(pd.dst_desc(), the_engine(), nullptr);
    p->scratch = memory(pd.scratchpad_desc(), the_engine(), nullptr);
    p->arg_count = 0;
    add_arg(p, DNNL_ARG_SRC, p->src);
    add_arg(p, DNNL_ARG_WEIGHTS, p->weights);
    add_arg(p, DNNL_ARG_DST, p->dst);
    add_arg(p, DNNL_ARG_SCRATCHPAD, p->scratch);
    if (s.bias) {
        p->bias = memory(pd.bias_desc(), the_engine(), nullptr);
        add_arg(p, DNNL_ARG_BIAS, p->bias);
    }
}

void create_conv(cpu_product *p, const cpu_product_shape &s) {
    using tag = memory::format_tag;
    memory::data_type type = element_type(s);
    memory::desc src({s.rows, s.in_channels, s.in_height, s.in_width}, type, tag::nhwc);
    memory::desc weights({s.out_channels, s.in_channels, s.kernel, s.kernel}, type, tag::any);
    memory::desc bias;
    if (s.bias)
        bias = memory::desc({s.out_channels}, memory::data_type::f32, tag::a);
    memory::dims dst_dims = {s.rows, s.out_channels, s.out_height, s.out_width};
    memory::desc dst(dst_dims, type, tag::nhwc);
    p->plain = memory::desc({s.out_channels, s.in_channels, s.kernel, s.kernel}, type, tag::oihw);
    memory::desc free_src({s.rows, s.in_channels, s.in_height, s.in_width}, type, tag::any),
        free_dst(dst_dims, type, tag::any);
    auto pd = make_conv(s.winograd ? dnnl::algorithm::convolution_winograd : dnnl::algorithm::convolution_direct,
                        s.winograd ? free_src : src, weights, bias, s.winograd ? free_dst : dst, {s.stride, s.stride},
                        {s.pad_top, s.pad_left}, {s.pad_bottom, s.pad_right}, make_attr(s));
    p->primitive = dnnl::convolution_forward(pd);
    set_conversions(p, s, pd, src, dst);
    finish(p, s, pd);
}

bool starts_with(const std::string &text, const char *start) {
    return text.rfind(start, 0) == 0;
}

void create_matmul(cpu_product *p, const cpu_product_shape &s) {
    using tag = memory::format_tag;
    memory::data_type type = element_type(s);
    memory::desc src({s.rows, s.in_channels}, type, tag::ab);
    memory::desc weights({s.in_channels, s.out_channels}, type, tag::any);
    memory::desc bias;
    if (s.bias)
        bias = memory::desc({1, s.out_channels}, memory::data_type::f32, tag::ab);
    memory::desc dst({s.rows, s.out_channels}, type, tag::ab);
    p->plain = memory::desc({s.in_channels, s.out_channels}, type, tag::ba);
    auto pd = make_matmul(src, weights, bias, dst, make_attr(s));
    p->primitive = dnnl::matmul(pd);
    p->scratch_bytes = pd.scratchpad_desc().get_size();
    finish(p, s, pd);
}

/* The same product as a convolution: the rows are the pixels of one column, the kernel is one pixel. */
cpu_product_shape as_convolution(const cpu_product_shape &product) {
    cpu_product_shape s = product;
    s.conv = true;
    s.in_height = s.out_height = product.rows;
    s.rows = s.in_width = s.out_width = s.kernel = s.stride = 1;
    return s;
}

/* oneDNN's general product (gemm: processors without AVX-512) allocates room for each thread in each call, and a step
 * must not allocate: a convolution with a kernel of its own does the same without. */
void create_product(cpu_product *p, const cpu_product_shape &s) {
    create_matmul(p, s);
    if (!starts_with(p->name, "gemm"))
        return;
    cpu_product convolution;
    convolution.shape = as_convolution(s);
    create_conv(&convolution, convolution.shape);
    if (starts_with(convolution.name, "jit"))
        *p = convolution;
}

enum asdm_status translate(const dnnl::error &error, struct asdm_error *err) {
    enum asdm_status status = error.status == dnnl_out_of_memory   ? ASDM_ERR_MEMORY
                              : error.status == dnnl_unimplemented ? ASDM_ERR_UNSUPPORTED
                                                                   : ASDM_ERR_DEVICE;
    return asdm_fail(err, status, "oneDNN: %s", error.what());
}

} // namespace

enum asdm_status cpu_product_create(const struct cpu_product_shape *shape, struct cpu_product **ret,
                                    struct asdm_error *err) {
    cpu_product *p = new (std::nothrow) cpu_product();
    if (!p)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan a product");
    p->shape = *shape;
    try {
        if (shape->conv)
            create_conv(p, *shape);
        else
            create_product(p, *shape);
    } catch (const dnnl::error &error) {
        delete p;
        return translate(error, err);
    } catch (const std::bad_alloc &) {
        delete p;
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan a product");
    }
    *ret = p;
    return ASDM_OK;
}

void cpu_product_destroy(struct cpu_product **product) {
    delete *product;
    *product = nullptr;
}

size_t cpu_product_weight_bytes(const struct cpu_product *product) {
    return product->weights.get_desc().get_size();
}

size_t cpu_product_scratch_bytes(const struct cpu_product *product) {
    return product->scratch_bytes;
}

const char *cpu_product_layout(const struct cpu_product *product) {
    return product->layout.c_str();
}

const char *cpu_product_name(const struct cpu_product *product) {
    return product->name.c_str();
}

/* Offsets along dimension `dim` of a blocked layout: an index is taken apart by the blocks of its dimension, from the
 * innermost out, and what is left goes by the dimension's stride. */
static void fill_offsets(const layout_view &v, size_t dim, int64_t count, size_t *offsets) {
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, offset = 0, inner = 1;
        for (size_t b = v.blocks.size(); b-- > 0; inner *= v.blocks[b])
            if (v.order[b] == static_cast<memory::dim>(dim)) {
                offset += rest % v.blocks[b] * inner;
                rest /= v.blocks[b];
            }
        offsets[i] = static_cast<size_t>(offset + rest * v.strides[dim]);
    }
}

bool cpu_product_offsets(const struct cpu_product *product, size_t *output_offset, size_t *input_offset,
                         size_t *tap_offset) {
    const memory::desc desc = product->weights.get_desc();
    const cpu_product_shape &s = product->shape;
    if (is_opaque(desc))
        return false;
    layout_view v = view(desc);
    if (!s.conv) { /* [in][out] */
        fill_offsets(v, 0, s.in_channels, input_offset);
        fill_offsets(v, 1, s.out_channels, output_offset);
        tap_offset[0] = 0;
        return true;
    }
    fill_offsets(v, 0, s.out_channels, output_offset);
    fill_offsets(v, 1, s.in_channels, input_offset);
    std::vector<size_t> rows(static_cast<size_t>(s.kernel)), columns(rows.size());
    fill_offsets(v, 2, s.kernel, rows.data());
    fill_offsets(v, 3, s.kernel, columns.data());
    for (size_t y = 0; y < rows.size(); y++)
        for (size_t x = 0; x < rows.size(); x++)
            tap_offset[y * rows.size() + x] = rows[y] + columns[x];
    return true;
}

enum asdm_status cpu_product_pack(const struct cpu_product *product, const void *plain, void *dst,
                                  struct asdm_error *err) {
    try {
        memory from(product->plain, the_engine(), const_cast<void *>(plain));
        memory to(product->weights.get_desc(), the_engine(), dst);
        dnnl::reorder(from, to).execute(the_stream(), from, to);
        the_stream().wait();
    } catch (const dnnl::error &error) {
        return translate(error, err);
    }
    return ASDM_OK;
}

static void execute(const dnnl::primitive &primitive, int arg_count, const dnnl_exec_arg_t *args) {
    /* The C call: the C++ one builds a map of its arguments each time. */
    dnnl_status_t status = dnnl_primitive_execute(primitive.get(), the_stream().get(), arg_count, args);
    ASDM_ASSERT(status == dnnl_success);
}

static void point(memory &m, const void *data) {
    dnnl_memory_set_data_handle(m.get(), const_cast<void *>(data));
}

void cpu_product_run(struct cpu_product *p, const void *src, const void *weights, const float *bias, void *dst,
                     void *scratch) {
    unsigned char *room = static_cast<unsigned char *>(scratch);
    if (p->in.primitive) {
        point(p->in.from, src);
        point(p->in.to, room + p->src_offset);
        execute(p->in.primitive, 2, p->in.args);
        src = room + p->src_offset;
    }
    point(p->src, src);
    point(p->weights, weights);
    point(p->dst, p->out.primitive ? room + p->dst_offset : dst);
    point(p->scratch, scratch);
    if (bias)
        point(p->bias, bias);
    execute(p->primitive, p->arg_count, p->args);
    if (p->out.primitive) {
        point(p->out.from, room + p->dst_offset);
        point(p->out.to, dst);
        execute(p->out.primitive, 2, p->out.args);
    }
}
