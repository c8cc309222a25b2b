/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import java.util.Arrays;
import java.util.Locale;
import java.util.Optional;

/**
 * How a {@link BsrLinear} computes its inference calls.
 *
 * <p>The system property {@value #PROPERTY}, or without it the environment variable {@value
 * #VARIABLE}, with the value {@code auto}, {@code bsr} or {@code dense}, overrides what layers are
 * set to. It is read when a layer is made.
 */
public enum BsrExecution {
    /**
     * Block-sparse, or dense where the operator predicts dense to be faster for the number of
     * tokens. The first dense call densifies the weight and says so in the log. Where dense is
     * never predicted to be faster, asked for powers of two up to {@value #MAX_TOKENS} tokens and
     * for one more than each, nothing is kept.
     *
     * <p>A dense product agrees with the block-sparse one within the rounding of their sums, which
     * in FLOAT16 an engine may round before bias and activation. NaN and Inf in an input reach
     * every output of it, as in a {@code Linear}, and the bits of an output may depend on the batch
     * that it is in.
     */
    AUTO,
    /** Always block-sparse. */
    BSR,
    /**
     * Always dense, on the densified weight; the values as they were given, also where the layer's
     * weight format is int8. The reference operator, which expands its weight at every call, keeps
     * none.
     */
    DENSE;

    /** The system property that overrides all layers. */
    public static final String PROPERTY = "io.djlbsr.execution";

    /** The environment variable that overrides all layers and the PyTorch operators. */
    public static final String VARIABLE = "DJLBSR_EXECUTION";

    /** The largest number of tokens that is asked for before dense is ruled out. */
    static final int MAX_TOKENS = 1 << 16;

    static Optional<BsrExecution> override() {
        String variable = System.getenv(VARIABLE);
        return parse(System.getProperty(PROPERTY, variable == null ? "" : variable));
    }

    private static Optional<BsrExecution> parse(String name) {
        if (name.isEmpty()) {
            return Optional.empty();
        }
        return Optional.of(
                Arrays.stream(values())
                        .filter(value -> value.name().toLowerCase(Locale.ROOT).equals(name))
                        .findFirst()
                        .orElseThrow(
                                () ->
                                        new IllegalArgumentException(
                                                "the system property "
                                                        + PROPERTY
                                                        + " or the environment variable "
                                                        + VARIABLE
                                                        + " is "
                                                        + name
                                                        + "; use auto, bsr or dense")));
    }
}
