/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.types.DataType;
import ai.djl.nn.Activation;

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

    private static final double SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

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

    /**
     * Applies this activation in NDArray operations, as an operator does that cannot fuse it.
     *
     * @param z the sums, FLOAT16, FLOAT32 or FLOAT64
     * @return the result; it and what lies between are attached to the manager of {@code z}
     */
    public NDArray apply(NDArray z) {
        if (this == NONE) {
            return z;
        }
        if (this == RELU) {
            return Activation.relu(z);
        }
        // FLOAT16 would round, and for z³ overflow, between the steps.
        DataType dataType = z.getDataType();
        NDArray wide = dataType == DataType.FLOAT16 ? z.toType(DataType.FLOAT32, false) : z;
        return wide.mul(gate(wide)).toType(dataType, false);
    }

    /** What GELU and SiLU multiply {@code z} with. */
    private NDArray gate(NDArray z) {
        return switch (this) {
            case GELU -> z.mul(Math.sqrt(0.5)).erf().add(1).mul(0.5);
            case GELU_TANH -> {
                NDArray cubic = z.mul(z).mul(0.044715).add(1).mul(z);
                yield cubic.mul(SQRT_2_OVER_PI).tanh().add(1).mul(0.5);
            }
            case SILU -> Activation.sigmoid(z);
            case NONE, RELU -> throw new IllegalArgumentException(this + " has no gate");
        };
    }
}
