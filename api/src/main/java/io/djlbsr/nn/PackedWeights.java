/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.CostEstimate;
import io.djlbsr.operator.PackedBsrWeight;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;

/**
 * The packed forms of a layer's weight, one for each array that holds its values: DJL makes an
 * array per device, and per predictor where it copies.
 *
 * <p>A call finds its packed weight in an immutable snapshot without a lock, and counts itself as a
 * user. Values that changed are packed anew beside the old form, which its last user frees: no call
 * sees a half-updated weight, and none fails because another call found the change first.
 */
final class PackedWeights {

    private final Function<NDArray, BsrOperator> operators;
    private final Supplier<BsrExecution> execution;
    private final BsrWeightFormat format;
    private final AtomicBoolean told = new AtomicBoolean();
    private volatile PackedEntry[] entries = {};

    /**
     * Makes an empty cache.
     *
     * @param operators selects the operator for values
     * @param execution tells how calls are computed
     * @param format how the packed forms keep the values
     */
    PackedWeights(
            Function<NDArray, BsrOperator> operators,
            Supplier<BsrExecution> execution,
            BsrWeightFormat format) {
        this.operators = operators;
        this.execution = execution;
        this.format = format;
    }

    /**
     * Applies the packed form of {@code values}, which it makes if there is no current one, or the
     * densified form where {@code execution} says so.
     *
     * @param spec what belongs to the values, the same at each call with them
     */
    NDArray linear(NDArray values, BsrLinearSpec spec, NDArray input, NDArray bias) {
        PackedEntry entry = acquire(values, spec);
        try {
            return entry.linear(input, bias, execution.get());
        } finally {
            entry.release();
        }
    }

    /** Predicts a call; empty where the operator has no model. */
    Optional<CostEstimate> estimate(NDArray values, BsrLinearSpec spec, long tokens) {
        PackedEntry entry = acquire(values, spec);
        try {
            return entry.estimate(tokens);
        } finally {
            entry.release();
        }
    }

    /** Frees all forms. Values that are still in use are packed again. */
    synchronized void evict() {
        replace(kept -> List.of());
    }

    /** Returns the bytes that all packed and densified forms take. */
    long getPackedBytes() {
        long bytes = 0;
        for (PackedEntry entry : entries) {
            if (entry.acquire()) {
                try {
                    bytes += entry.bytes();
                } finally {
                    entry.release();
                }
            }
        }
        return bytes;
    }

    private PackedEntry acquire(NDArray values, BsrLinearSpec spec) {
        PackedEntry entry = acquireCurrent(values);
        return entry == null ? pack(values, spec) : entry;
    }

    private PackedEntry acquireCurrent(NDArray values) {
        for (PackedEntry entry : entries) {
            if (entry.values == values && entry.acquire()) {
                if (entry.isCurrent()) {
                    return entry;
                }
                entry.release();
            }
        }
        return null;
    }

    private synchronized PackedEntry pack(NDArray values, BsrLinearSpec spec) {
        PackedEntry current = acquireCurrent(values);
        if (current != null) {
            return current;
        }
        PackedBsrWeight packed =
                operators.apply(values).pack(values.getManager(), spec.structure(), values, format);
        PackedEntry added = new PackedEntry(values, spec, packed, told);
        added.acquire();
        replace(
                kept -> {
                    kept.removeIf(entry -> entry.values == values);
                    kept.add(added);
                    return kept;
                });
        return added;
    }

    private void replace(UnaryOperator<List<PackedEntry>> change) {
        PackedEntry[] old = entries;
        List<PackedEntry> kept = new ArrayList<>(List.of(old));
        kept.removeIf(entry -> entry.values.isReleased());
        kept = change.apply(kept);
        entries = kept.toArray(new PackedEntry[0]);
        for (PackedEntry entry : old) {
            if (!kept.contains(entry)) {
                entry.release();
            }
        }
    }
}
