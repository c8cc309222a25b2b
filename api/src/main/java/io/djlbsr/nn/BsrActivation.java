/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

/** The activations that a block-sparse linear layer can apply to its sum before storing it. */
public enum BsrActivation {
    /** The sum itself. */
    NONE(0),
    /** {@code max(z, 0)}. */
    RELU(1),
    /** The exact GELU, {@code z/2 · (1 + erf(z/√2))}. */
    GELU(2),
    /** GELU's tanh form, {@code z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³)))}. */
    GELU_TANH(3),
    /** {@code z / (1 + exp(−z))}, also known as swish. */
    SILU(4);

    private final int code;

    BsrActivation(int code) {
        this.code = code;
    }

    /**
     * Returns the number that stands for this activation in {@code djlbsr.h}, in the operators
     * {@code bsr::linear} and {@code bsr::linear_packed}, and in saved parameters.
     *
     * @return 0 for none, 1 ReLU, 2 exact GELU, 3 tanh GELU, 4 SiLU
     */
    public int code() {
        return code;
    }

    /**
     * Returns the activation with a {@link #code()}.
     *
     * @param code the code, 0 to 4
     * @return the activation
     * @throws IllegalArgumentException if no activation has this code
     */
    public static BsrActivation ofCode(int code) {
        for (BsrActivation activation : values()) {
            if (activation.code == code) {
                return activation;
            }
        }
        throw new IllegalArgumentException(
                "activation code is " + code + "; use 0 to " + (values().length - 1));
    }
}
