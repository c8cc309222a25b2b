/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.CostEstimate;
import io.djlbsr.operator.PackedBsrWeight;
import java.util.Locale;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The packed form of an array of values, its densified form once a call wants that one, and the
 * number of users of both. The last user frees them.
 */
final class PackedEntry {

    private static final Logger logger = LoggerFactory.getLogger(BsrLinear.class);

    final NDArray values;
    private final BsrLinearSpec spec;
    private final PackedBsrWeight packed;

    /** Shared by all entries of a layer, which tells about its dense weight once. */
    private final AtomicBoolean told;

    private final AtomicInteger users = new AtomicInteger(1);
    private volatile DenseWeight dense;
    private volatile boolean denseFailed;
    private volatile Boolean densePays;
    private volatile Choice last = new Choice(0, false);

    /** What was predicted for the number of tokens that was last asked for. */
    private record Choice(long tokens, boolean dense) {}

    PackedEntry(NDArray values, BsrLinearSpec spec, PackedBsrWeight packed, AtomicBoolean told) {
        this.values = values;
        this.spec = spec;
        this.packed = packed;
        this.told = told;
    }

    NDArray linear(NDArray input, NDArray bias, BsrExecution execution) {
        if (runsDense(input, execution)) {
            DenseWeight weight = dense(input, execution);
            if (weight != null) {
                return weight.linear(
                        input,
                        bias,
                        spec.activation(),
                        sums -> packed.activate(sums, spec.activation()));
            }
        }
        return packed.linear(input, bias, spec.activation());
    }

    Optional<CostEstimate> estimate(long tokens) {
        return packed.estimate(tokens, spec.activation());
    }

    private boolean runsDense(NDArray input, BsrExecution execution) {
        if (execution == BsrExecution.BSR || !packed.noticesChanges()) {
            return false;
        }
        if (execution == BsrExecution.AUTO && !densePays()) {
            return false;
        }
        if (!DenseWeight.accepts(spec.structure(), values, input)) {
            return false;
        }
        return execution == BsrExecution.DENSE || isDenseFaster(tokensOf(input));
    }

    /** Whether any number of tokens makes dense faster; most layers need no further question. */
    private boolean densePays() {
        Boolean known = densePays;
        if (known == null) {
            known = false;
            for (long tokens = 1; !known && tokens <= BsrExecution.MAX_TOKENS; tokens *= 2) {
                // One token more begins a tile of a kernel, which is where it is at its worst.
                known = isDenseFaster(tokens) || isDenseFaster(tokens + 1);
            }
            densePays = known;
        }
        return known;
    }

    private boolean isDenseFaster(long tokens) {
        Choice choice = last;
        if (choice.tokens != tokens) {
            boolean faster = estimate(tokens).map(CostEstimate::denseFaster).orElse(false);
            choice = new Choice(tokens, faster);
            last = choice;
        }
        return choice.dense;
    }

    private static long tokensOf(NDArray input) {
        Shape shape = input.getShape();
        return shape.slice(0, shape.dimension() - 1).size();
    }

    /** Returns the densified weight, or null if it cannot be had and need not be. */
    private DenseWeight dense(NDArray input, BsrExecution execution) {
        DenseWeight weight = dense;
        if (weight != null && !weight.isReleased()) {
            return weight;
        }
        if (denseFailed && execution == BsrExecution.AUTO) {
            return null;
        }
        synchronized (this) {
            if (dense == null || dense.isReleased()) {
                try {
                    dense = DenseWeight.of(spec.structure(), values);
                } catch (RuntimeException e) {
                    if (execution == BsrExecution.DENSE) {
                        throw e;
                    }
                    denseFailed = true;
                    logger.warn("{} stays block-sparse: its weight cannot be densified", name(), e);
                    return null;
                }
                if (execution == BsrExecution.AUTO) {
                    tell(tokensOf(input));
                }
            }
            return dense;
        }
    }

    private void tell(long tokens) {
        if (!told.compareAndSet(false, true)) {
            return;
        }
        CostEstimate estimate = estimate(tokens).orElseThrow();
        logger.info(
                "{} runs dense for {} tokens on {}, where dense is predicted to take {} us and"
                        + " block-sparse {} us. Its densified weight takes {} bytes beside the packed"
                        + " one. BsrLinear.setExecution(BsrExecution.BSR), or -D{}=bsr for all layers,"
                        + " prevents this.",
                name(),
                tokens,
                values.getDevice(),
                micros(estimate.denseSeconds()),
                micros(estimate.bsrSeconds()),
                DenseWeight.bytes(spec.structure(), values.getDataType()),
                BsrExecution.PROPERTY);
    }

    private String name() {
        BsrStructure s = spec.structure();
        return String.format(
                Locale.ROOT,
                "A BsrLinear of %dx%d in %dx%d blocks, %.1f %% stored,",
                s.getRows(),
                s.getCols(),
                s.getBlockRows(),
                s.getBlockCols(),
                100 * s.getDensity());
    }

    private static String micros(double seconds) {
        return String.format(Locale.ROOT, "%.1f", seconds * 1e6);
    }

    boolean isCurrent() {
        return !packed.isReleased() && packed.isCurrent(values);
    }

    long bytes() {
        DenseWeight weight = dense;
        long denseBytes =
                weight == null || weight.isReleased()
                        ? 0
                        : DenseWeight.bytes(spec.structure(), values.getDataType());
        return denseBytes + (packed.isReleased() ? 0 : packed.getPackedBytes());
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
            if (dense != null) {
                dense.close();
            }
        }
    }
}
