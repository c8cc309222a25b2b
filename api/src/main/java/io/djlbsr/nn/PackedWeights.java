/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import io.djlbsr.operator.BsrOperator;
import io.djlbsr.operator.PackedBsrWeight;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
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
    private volatile Entry[] entries = {};

    /**
     * Makes an empty cache.
     *
     * @param operators selects the operator for values
     */
    PackedWeights(Function<NDArray, BsrOperator> operators) {
        this.operators = operators;
    }

    /**
     * Applies the packed form of {@code values}, which it makes if there is no current one.
     *
     * @param spec what belongs to the values, the same at each call with them
     */
    NDArray linear(NDArray values, BsrLinearSpec spec, NDArray input, NDArray bias) {
        Entry entry = acquireCurrent(values);
        if (entry == null) {
            entry = pack(values, spec);
        }
        try {
            return entry.packed.linear(input, bias, spec.activation());
        } finally {
            entry.release();
        }
    }

    /** Frees all forms. Values that are still in use are packed again. */
    synchronized void evict() {
        replace(kept -> List.of());
    }

    /** Returns the bytes that all packed forms take. */
    long getPackedBytes() {
        long bytes = 0;
        for (Entry entry : entries) {
            if (entry.acquire()) {
                try {
                    bytes += entry.packed.isReleased() ? 0 : entry.packed.getPackedBytes();
                } finally {
                    entry.release();
                }
            }
        }
        return bytes;
    }

    private Entry acquireCurrent(NDArray values) {
        for (Entry entry : entries) {
            if (entry.values == values && entry.acquire()) {
                if (!entry.packed.isReleased() && entry.packed.isCurrent(values)) {
                    return entry;
                }
                entry.release();
            }
        }
        return null;
    }

    private synchronized Entry pack(NDArray values, BsrLinearSpec spec) {
        Entry current = acquireCurrent(values);
        if (current != null) {
            return current;
        }
        PackedBsrWeight packed =
                operators.apply(values).pack(values.getManager(), spec.structure(), values);
        Entry added = new Entry(values, packed);
        added.acquire();
        replace(
                kept -> {
                    kept.removeIf(entry -> entry.values == values);
                    kept.add(added);
                    return kept;
                });
        return added;
    }

    private void replace(UnaryOperator<List<Entry>> change) {
        Entry[] old = entries;
        List<Entry> kept = new ArrayList<>(List.of(old));
        kept.removeIf(entry -> entry.values.isReleased());
        kept = change.apply(kept);
        entries = kept.toArray(new Entry[0]);
        for (Entry entry : old) {
            if (!kept.contains(entry)) {
                entry.release();
            }
        }
    }

    /** A packed weight and the number of its users, of which the snapshot is one. */
    private static final class Entry {
        final NDArray values;
        final PackedBsrWeight packed;
        private final AtomicInteger users = new AtomicInteger(1);

        Entry(NDArray values, PackedBsrWeight packed) {
            this.values = values;
            this.packed = packed;
        }

        /** Returns false if the packed weight was freed. */
        boolean acquire() {
            int count = users.get();
            while (count > 0) {
                if (users.compareAndSet(count, count + 1)) {
                    return true;
                }
                count = users.get();
            }
            return false;
        }

        void release() {
            if (users.decrementAndGet() == 0) {
                packed.close();
            }
        }
    }
}
