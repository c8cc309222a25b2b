/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

/** How a {@linkplain PackedBsrWeight packed weight} keeps the values of its blocks. */
public enum BsrWeightFormat {
    /** In their own data type. */
    AS_GIVEN(0),
    /**
     * As 8-bit integers with one scale for each block, for FLOAT32 values on the CPU.
     *
     * <p>Each call also rounds the input, to 8 bits with one scale for each token. Input, bias and
     * output stay FLOAT32. With {@code s_b = max|w| / 127} of a block and {@code s_t = max|x| /
     * 127} of a token (over the columns that meet a block), an output before the activation is off
     * by at most the sum of {@code |w| s_t/2 + |x| s_b/2 + s_b s_t/4} over the stored elements of
     * its row. Whether a model bears that is for its user to measure; nothing chooses this format
     * by itself. On CPUs with AVX-512 VNNI it is faster than {@link #AS_GIVEN} for blocks of 4x4
     * and more, and slower for blocks of one column; with AVX2 alone it is no faster from some tens
     * of tokens on, and slower for blocks smaller than 16x16.
     *
     * <p>Results have the same bits on every CPU. A token with a NaN or an infinity in a column
     * that meets a block has NaN in every output, and values that are not finite are refused.
     */
    INT8(1);

    private final int code;

    BsrWeightFormat(int code) {
        this.code = code;
    }

    /**
     * Returns the number that stands for this format in {@code djlbsr.h} and in the operator {@code
     * bsr::pack}.
     *
     * @return 0 as given, 1 8-bit integers
     */
    public int code() {
        return code;
    }
}
