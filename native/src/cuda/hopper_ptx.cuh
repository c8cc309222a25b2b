/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 *
 * The sm_90a instructions that the Hopper kernels use, one function each. PTX ISA 8.0.
 */
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace djlbsr::cuda::ptx {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/* 0 for lanes that do not read. */
__device__ inline uint4 load_shared_if(bool reads, uint32_t address) {
  uint4 v;
  asm volatile(
      "{\n"
      ".reg .pred reads;\n"
      "setp.ne.u32 reads, %5, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "mov.u32 %2, 0;\n"
      "mov.u32 %3, 0;\n"
      "@reads ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "r"(address), "r"(static_cast<uint32_t>(reads))
      : "memory");
  return v;
}

__device__ inline uint2 load_shared_pair_if(bool reads, uint32_t address) {
  uint2 v;
  asm volatile(
      "{\n"
      ".reg .pred reads;\n"
      "setp.ne.u32 reads, %3, 0;\n"
      "mov.u32 %0, 0;\n"
      "mov.u32 %1, 0;\n"
      "@reads ld.shared.v2.u32 {%0, %1}, [%2];\n"
      "}"
      : "=&r"(v.x), "=&r"(v.y)
      : "r"(address), "r"(static_cast<uint32_t>(reads))
      : "memory");
  return v;
}

__device__ inline uint2 load_shared_pair(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

__device__ inline void store_shared(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
}

/* ---- mbarrier ---- */

__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to the bulk copy engine. */
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ inline void mbarrier_expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ inline bool mbarrier_test(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

/* Arrives at a barrier of the cluster. */
__device__ inline void mbarrier_arrive_in_cluster(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* ---- clusters ---- */

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/* Where in the cluster's shared memory a CTA has what this one has at an address. */
__device__ inline uint32_t address_in_cta(uint32_t address, uint32_t cta) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(cta));
  return remote;
}

__device__ inline float4 load_float4_from_cta(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

/* ---- bulk tensor copies ---- */

__device__ inline void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A box of the tensor to shared memory; elements outside the tensor become 0. */
__device__ inline void load_box(uint32_t destination, const CUtensorMap* map, int32_t inner,
                                int32_t outer, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(destination),
      "l"(map), "r"(inner), "r"(outer), "r"(barrier)
      : "memory");
}

/* The same box for both CTAs of a cluster of two, at the same place and barrier in each. */
__device__ inline void load_box_for_pair(uint32_t destination, const CUtensorMap* map,
                                         int32_t inner, int32_t outer, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(map), "r"(inner), "r"(outer), "r"(barrier), "h"(static_cast<uint16_t>(3))
      : "memory");
}

/*
 * A box from shared memory to the tensor; elements outside the tensor are left out. Its lines are
 * the first to leave L2.
 */
__device__ inline void store_box(const CUtensorMap* map, uint32_t source, int32_t inner,
                                 int32_t outer) {
  asm volatile(
      "{\n"
      ".reg .b64 policy;\n"
      "createpolicy.fractional.L2::evict_first.b64 policy;\n"
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group.L2::cache_hint "
      "[%0, {%1, %2}], [%3], policy;\n"
      "}" ::"l"(map),
      "r"(inner), "r"(outer), "r"(source)
      : "memory");
}

__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

/* Until this thread's stores no longer need their shared memory. */
__device__ inline void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ inline void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/* Adjacent bytes, a multiple of 16 at a multiple of 16. */
__device__ inline void load_bytes(uint32_t destination, const void* source, uint32_t bytes,
                                  uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

/* Orders earlier writes to shared memory before later accesses by the copy engine. */
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- warpgroups ---- */

template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/* A barrier of the 128 threads of one warpgroup; ids 1 to 15. */
__device__ inline void warpgroup_sync(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

/* A barrier of some whole warps of the CTA. */
__device__ inline void warps_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ inline void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c,
                                      uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

/* Four 8x8 matrices of 16-bit elements, transposed; lane l gives the address of row l % 8 of matrix
 * l / 8. */
__device__ inline void store_matrices_transposed(uint32_t address, uint32_t a, uint32_t b,
                                                 uint32_t c, uint32_t d) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}

/* Two of them; lanes 0 to 15 give the addresses. */
__device__ inline void store_two_matrices_transposed(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(a), "r"(b)
               : "memory");
}

/* ---- wgmma ---- */

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most kPending groups are unfinished. */
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/* Keeps the compiler from moving uses of sums that wgmma writes above the wait before this. */
template <int kCount>
__device__ inline void use_after_wait(float (&d)[kCount]) {
#pragma unroll
  for (float& v : d) asm volatile("" : "+f"(v)::"memory");
}

/*
 * The descriptor of a K-major operand in rows of 128 bytes with the 128-byte swizzle, at an address
 * that is a multiple of 1024: groups of 8 rows are 1024 bytes apart. Adding 2 moves 32 bytes, 16
 * elements, along K.
 */
__device__ inline uint64_t operand(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

/*
 * The descriptor of a K-major operand in rows of kRowBytes with the swizzle of as many bytes:
 * groups of 8 rows follow each other. Adding 2 moves 32 bytes along K.
 */
template <int kRowBytes>
__device__ inline uint64_t swizzled_operand(uint32_t address) {
  static_assert(kRowBytes == 128 || kRowBytes == 64, "a swizzle's width");
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 |
         uint64_t{8 * kRowBytes >> 4} << 32 | uint64_t{kRowBytes == 128 ? 1 : 2} << 62;
}

#define DJLBSR_8(d, i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define DJLBSR_32(d, i) DJLBSR_8(d, i), DJLBSR_8(d, i + 8), DJLBSR_8(d, i + 16), DJLBSR_8(d, i + 24)
#define DJLBSR_WGMMA_N256(types, test)                                                           \
  "{\n"                                                                                          \
  ".reg .pred add;\n" test "wgmma.mma_async.sync.aligned.m64n256k16.f32." types                  \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                     \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "   \
  "%127}, %128, %129, add, 1, 1, 0, 0;\n"                                                        \
  "}"

/*
 * d += a * b^T for a of 64 x 16 and b of 256 x 16 elements. Register 4j + 2i + c of lane l in warp
 * w is row 16w + l / 4 + 8i, column 8j + 2 (l % 4) + c.
 */
template <typename Element>
__device__ inline void wgmma_64x256x16(float (&d)[128], uint64_t a, uint64_t b);

template <>
__device__ inline void wgmma_64x256x16<__half>(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile(DJLBSR_WGMMA_N256("f16.f16", "setp.eq.u32 add, 0, 0;\n")
               : DJLBSR_32(d, 0), DJLBSR_32(d, 32), DJLBSR_32(d, 64), DJLBSR_32(d, 96)
               : "l"(a), "l"(b));
}

template <>
__device__ inline void wgmma_64x256x16<__nv_bfloat16>(float (&d)[128], uint64_t a, uint64_t b) {
  asm volatile(DJLBSR_WGMMA_N256("bf16.bf16", "setp.eq.u32 add, 0, 0;\n")
               : DJLBSR_32(d, 0), DJLBSR_32(d, 32), DJLBSR_32(d, 64), DJLBSR_32(d, 96)
               : "l"(a), "l"(b));
}

/* The same, d = (add ? d : 0) + a * b^T. */
template <typename Element>
__device__ inline void wgmma_64x256x16(float (&d)[128], uint64_t a, uint64_t b, bool add);

template <>
__device__ inline void wgmma_64x256x16<__half>(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(DJLBSR_WGMMA_N256("f16.f16", "setp.ne.u32 add, %130, 0;\n")
               : DJLBSR_32(d, 0), DJLBSR_32(d, 32), DJLBSR_32(d, 64), DJLBSR_32(d, 96)
               : "l"(a), "l"(b), "r"(static_cast<uint32_t>(add)));
}

template <>
__device__ inline void wgmma_64x256x16<__nv_bfloat16>(float (&d)[128], uint64_t a, uint64_t b,
                                                      bool add) {
  asm volatile(DJLBSR_WGMMA_N256("bf16.bf16", "setp.ne.u32 add, %130, 0;\n")
               : DJLBSR_32(d, 0), DJLBSR_32(d, 32), DJLBSR_32(d, 64), DJLBSR_32(d, 96)
               : "l"(a), "l"(b), "r"(static_cast<uint32_t>(add)));
}

#undef DJLBSR_WGMMA_N256

/*
 * The same for b of 16, 32, 64 or 128 rows. A descriptor is given as its two halves: the low one
 * has the address, so that moving it takes 32-bit arithmetic. d is a part of the accumulators.
 */
struct Operands {
  uint32_t a, a_high, b, b_high;
};
#define DJLBSR_WGMMA(shape, types, list, a, ah, b, bh)          \
  "{\n"                                                         \
  ".reg .pred add;\n"                                           \
  ".reg .b64 da, db;\n"                                         \
  "setp.eq.u32 add, 0, 0;\n"                                    \
  "mov.b64 da, {" a ", " ah                                     \
  "};\n"                                                        \
  "mov.b64 db, {" b ", " bh                                     \
  "};\n"                                                        \
  "wgmma.mma_async.sync.aligned." shape ".f32." types " {" list \
  "}, da, db, add, 1, 1, 0, 0;\n"                               \
  "}"
#define DJLBSR_LIST_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define DJLBSR_LIST_16 DJLBSR_LIST_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define DJLBSR_LIST_32                                                            \
  DJLBSR_LIST_16                                                                  \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, " \
  "%31"
#define DJLBSR_LIST_64                                                            \
  DJLBSR_LIST_32                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "   \
  "%62, %63"

template <typename Element, int kRows>
struct WgmmaSmall;
#define DJLBSR_SMALL(Element, types)                                                             \
  template <>                                                                                    \
  struct WgmmaSmall<Element, 16> {                                                               \
    __device__ static void run(float* d, const Operands& o) {                                    \
      asm volatile(DJLBSR_WGMMA("m64n16k16", types, DJLBSR_LIST_8, "%8", "%9", "%10", "%11")     \
                   : DJLBSR_8(d, 0)                                                              \
                   : "r"(o.a), "r"(o.a_high), "r"(o.b), "r"(o.b_high));                          \
    }                                                                                            \
  };                                                                                             \
  template <>                                                                                    \
  struct WgmmaSmall<Element, 32> {                                                               \
    __device__ static void run(float* d, const Operands& o) {                                    \
      asm volatile(DJLBSR_WGMMA("m64n32k16", types, DJLBSR_LIST_16, "%16", "%17", "%18", "%19")  \
                   : DJLBSR_8(d, 0), DJLBSR_8(d, 8)                                              \
                   : "r"(o.a), "r"(o.a_high), "r"(o.b), "r"(o.b_high));                          \
    }                                                                                            \
  };                                                                                             \
  template <>                                                                                    \
  struct WgmmaSmall<Element, 64> {                                                               \
    __device__ static void run(float* d, const Operands& o) {                                    \
      asm volatile(DJLBSR_WGMMA("m64n64k16", types, DJLBSR_LIST_32, "%32", "%33", "%34", "%35")  \
                   : DJLBSR_32(d, 0)                                                             \
                   : "r"(o.a), "r"(o.a_high), "r"(o.b), "r"(o.b_high));                          \
    }                                                                                            \
  };                                                                                             \
  template <>                                                                                    \
  struct WgmmaSmall<Element, 128> {                                                              \
    __device__ static void run(float* d, const Operands& o) {                                    \
      asm volatile(DJLBSR_WGMMA("m64n128k16", types, DJLBSR_LIST_64, "%64", "%65", "%66", "%67") \
                   : DJLBSR_32(d, 0), DJLBSR_32(d, 32)                                           \
                   : "r"(o.a), "r"(o.a_high), "r"(o.b), "r"(o.b_high));                          \
    }                                                                                            \
  };
DJLBSR_SMALL(__half, "f16.f16")
DJLBSR_SMALL(__nv_bfloat16, "bf16.bf16")
#undef DJLBSR_SMALL

/* d[0..63] = (add ? d : 0) + a * b^T for a of 64 x 16 and b of 128 x 16 elements. */
template <typename Element>
__device__ inline void wgmma_64x128x16(float (&d)[128], uint64_t a, uint64_t b, bool add);

#define DJLBSR_WGMMA_N128(Element, types)                                                 \
  template <>                                                                             \
  __device__ inline void wgmma_64x128x16<Element>(float(&d)[128], uint64_t a, uint64_t b, \
                                                  bool add) {                             \
    asm volatile(                                                                         \
        "{\n"                                                                             \
        ".reg .pred add;\n"                                                               \
        "setp.ne.u32 add, %66, 0;\n"                                                      \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." types " {" DJLBSR_LIST_64          \
        "}, %64, %65, add, 1, 1, 0, 0;\n"                                                 \
        "}"                                                                               \
        : DJLBSR_32(d, 0), DJLBSR_32(d, 32)                                               \
        : "l"(a), "l"(b), "r"(static_cast<uint32_t>(add)));                               \
  }
DJLBSR_WGMMA_N128(__half, "f16.f16")
DJLBSR_WGMMA_N128(__nv_bfloat16, "bf16.bf16")
#undef DJLBSR_WGMMA_N128
#undef DJLBSR_LIST_64
#undef DJLBSR_LIST_32
#undef DJLBSR_LIST_16
#undef DJLBSR_LIST_8
#undef DJLBSR_WGMMA
#undef DJLBSR_32
#undef DJLBSR_8

}  // namespace djlbsr::cuda::ptx
