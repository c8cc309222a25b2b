/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.operator.BsrWeightFormat;
import io.djlbsr.operator.CostEstimate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.function.Predicate;

/**
 * Swaps the {@link Linear}s of a DJL block, at any depth and behind private fields as well, for
 * {@link BsrLinear}s. Names of parameters do not change.
 *
 * <p>Convert before a {@code Trainer} or {@code Predictor} is made of the block, and not while it
 * runs. Subclasses of {@code Linear} are left, because they may compute something else; so is each
 * layer that one of its holders does not let go. Holders are the children and fields of blocks, and
 * the lists, maps and arrays in them. A layer that a lambda or another object holds besides is not
 * found there; using it fails after the swap, because its arrays are closed. {@code
 * Blocks.describe} goes on printing the key of a child, such as {@code Linear}.
 *
 * <p>A following activation is not fused: DJL's activation blocks are lambdas, which do not tell
 * what they compute, and the code of other blocks cannot be read. Build such layers with {@code
 * optActivation}.
 */
public final class BsrConverter {

    private final List<int[]> blockShapes;
    private final float tolerance;
    private final BlockPruner pruner;
    private final ConversionPolicy policy;
    private final BsrWeightFormat weightFormat;
    private final boolean keepDense;
    private final List<Long> tokens;

    private BsrConverter(Builder builder) {
        blockShapes = List.copyOf(builder.blockShapes);
        tolerance = builder.tolerance;
        pruner = builder.pruner;
        policy = builder.policy;
        weightFormat = builder.weightFormat;
        keepDense = builder.keepDense;
        tokens = List.copyOf(builder.tokens);
    }

    /**
     * Creates a builder.
     *
     * @return a new builder
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Swaps the layers that have arrays and that the policy selects.
     *
     * <p>A layer whose conversion fails is left, with the failure as the reason. Arrays that a
     * block which stays shares with a swapped layer stay open; the swapped layer has a copy.
     *
     * @param root the block, whose layers are swapped in place
     * @return what was done with each layer
     */
    public ConversionReport convert(Block root) {
        LinearSites found = LinearSites.of(Objects.requireNonNull(root, "root is null"));
        List<ConversionReport.Entry> entries = new ArrayList<>();
        List<Linear> swapped = new ArrayList<>();
        for (LinearSites.Site site : found.getSites()) {
            ConversionReport.Entry entry = convert(site);
            entries.add(entry);
            if (entry.swapped()) {
                swapped.add(site.linear);
            }
        }
        if (!keepDense) {
            // Last, because layers may share arrays with each other and with blocks that stay.
            closeArrays(swapped, found.getBlocks());
        }
        return new ConversionReport(entries, found.getOpaqueBlocks());
    }

    private static void closeArrays(List<Linear> swapped, Set<Block> blocks) {
        Set<NDArray> held = Collections.newSetFromMap(new IdentityHashMap<>());
        for (Block block : blocks) {
            for (Parameter parameter : block.getDirectParameters().values()) {
                if (!swapped.contains(block) && parameter.isInitialized()) {
                    held.add(parameter.getArray());
                }
            }
        }
        for (Linear linear : swapped) {
            for (Parameter parameter : linear.getDirectParameters().values()) {
                if (parameter.isInitialized() && !held.contains(parameter.getArray())) {
                    parameter.close();
                }
            }
        }
    }

    /**
     * Swaps layers without arrays for block-sparse ones that take their structure from the
     * parameter file which the block loads next: one of a converted block, or a dense one. A dense
     * weight that the converter's first block shape does not divide becomes one block.
     *
     * @param root the block, before {@code loadParameters}
     * @param names selects the layers by their names
     * @return what was done with each layer
     */
    public ConversionReport prepareToLoad(Block root, Predicate<String> names) {
        LinearSites found = LinearSites.of(Objects.requireNonNull(root, "root is null"));
        List<ConversionReport.Entry> entries = new ArrayList<>();
        for (LinearSites.Site site : found.getSites()) {
            Optional<String> reason = reasonToLeave(site);
            if (reason.isEmpty() && weightOf(site.linear).isInitialized()) {
                reason = Optional.of("it has arrays already; use convert");
            }
            if (reason.isEmpty() && !names.test(site.name)) {
                reason = Optional.of("its name is not selected");
            }
            if (reason.isPresent()) {
                entries.add(left(site, reason.get()));
                continue;
            }
            int[] shape = blockShapes.get(0);
            BsrLinear layer =
                    BsrLinear.builder()
                            .setUnits(site.linear.getOutputShapes(oneInput())[0].get(1))
                            .setBlockShape(shape[0], shape[1])
                            .optBias(site.linear.getDirectParameters().contains("bias"))
                            .optWeightFormat(weightFormat)
                            .build();
            entries.add(
                    replace(site, layer)
                            .map(failure -> left(site, failure))
                            .orElseGet(
                                    () ->
                                            swapped(
                                                    site,
                                                    null,
                                                    shape[0],
                                                    shape[1],
                                                    Double.NaN,
                                                    0,
                                                    0,
                                                    Map.of())));
        }
        return new ConversionReport(entries, found.getOpaqueBlocks());
    }

    private static Shape[] oneInput() {
        return new Shape[] {new Shape(1, 1)};
    }

    private static Parameter weightOf(Linear linear) {
        return linear.getDirectParameters().get("weight");
    }

    private static Optional<String> reasonToLeave(LinearSites.Site site) {
        if (site.linear instanceof BsrLinear) {
            return Optional.of("it is block-sparse already");
        }
        if (site.linear.getClass() != Linear.class) {
            return Optional.of(
                    "it is a "
                            + site.linear.getClass().getName()
                            + ", a subclass of Linear, which may compute something else");
        }
        if (site.obstacle != null) {
            return Optional.of(site.obstacle);
        }
        if (site.slots.isEmpty()) {
            return Optional.of(
                    "nothing that can be set holds it; use BsrLinear.fromLinear and put the result"
                            + " where the layer is used");
        }
        return Optional.empty();
    }

    private ConversionReport.Entry convert(LinearSites.Site site) {
        Optional<String> reason = reasonToLeave(site);
        if (reason.isPresent()) {
            return left(site, reason.get());
        }
        if (!isInitialized(site.linear)) {
            return left(
                    site,
                    "it has no arrays yet; initialize the block or load its parameters first, or"
                            + " call prepareToLoad");
        }
        List<String> reasons = new ArrayList<>();
        for (int[] shape : blockShapes) {
            Shape weight = weightOf(site.linear).getArray().getShape();
            if (weight.get(0) % shape[0] != 0 || weight.get(1) % shape[1] != 0) {
                reasons.add(
                        shape[0]
                                + "x"
                                + shape[1]
                                + " blocks do not divide it; choose a block shape that does");
                continue;
            }
            try {
                BsrLinear layer = candidate(site.linear, shape);
                reason = reasonOfPolicy(site, layer);
                if (reason.isEmpty()) {
                    return swap(site, layer);
                }
                layer.clear();
                reasons.add(reason.get());
            } catch (RuntimeException e) {
                // One layer that cannot be converted must not leave the model half converted.
                reasons.add("its conversion fails: " + e);
            }
        }
        return left(site, String.join("; ", reasons));
    }

    private static boolean isInitialized(Linear linear) {
        return linear.getDirectParameters().values().stream().allMatch(Parameter::isInitialized);
    }

    private BsrLinear candidate(Linear linear, int[] shape) {
        if (pruner == null) {
            NDArray weight = DenseLinears.weightOf(linear);
            return DenseLinears.toBsr(
                    linear,
                    DenseLinears.structureOf(weight, shape[0], shape[1], tolerance),
                    weightFormat);
        }
        BsrMatrix pruned = pruner.prune(weightOf(linear).getArray());
        return DenseLinears.toBsr(linear, pruned.getStructure(), weightFormat);
    }

    private Optional<String> reasonOfPolicy(LinearSites.Site site, BsrLinear layer) {
        try {
            return policy.reasonToLeave(site.name, site.linear, layer.getMatrix());
        } catch (RuntimeException e) {
            layer.clear();
            throw e;
        }
    }

    private ConversionReport.Entry swap(LinearSites.Site site, BsrLinear layer) {
        Map<Long, CostEstimate> estimates;
        try {
            // Packs the weight, which may fail: before the model holds the layer.
            estimates = layer.estimates(tokens);
            if (weightFormat != BsrWeightFormat.AS_GIVEN) {
                layer.estimate(1); // Not every operator has the format; then the layer is left.
            }
        } catch (RuntimeException e) {
            layer.clear();
            throw e;
        }
        Optional<String> failure = replace(site, layer);
        if (failure.isPresent()) {
            layer.clear();
            return left(site, failure.get());
        }
        BsrStructure structure = layer.getStructure();
        NDArray weight = weightOf(site.linear).getArray();
        int elementBytes = weight.getDataType().getNumOfBytes();
        long indices = structure.getNnzb() + structure.getBlockRowCount() + 1L;
        return swapped(
                site,
                weight.getShape(),
                structure.getBlockRows(),
                structure.getBlockCols(),
                structure.getDensity(),
                weight.size() * elementBytes,
                weightOf(layer).getArray().size() * elementBytes
                        + indices * DataType.INT32.getNumOfBytes(),
                estimates);
    }

    private static Optional<String> replace(LinearSites.Site site, BsrLinear layer) {
        try {
            site.replace(layer);
            return Optional.empty();
        } catch (ReflectiveOperationException | RuntimeException e) {
            return Optional.of("one of its holders cannot be set: " + e);
        }
    }

    private static ConversionReport.Entry swapped(
            LinearSites.Site site,
            Shape shape,
            int blockRows,
            int blockCols,
            double density,
            long bytesBefore,
            long bytesAfter,
            Map<Long, CostEstimate> estimates) {
        return new ConversionReport.Entry(
                site.name,
                shape,
                true,
                "",
                blockRows,
                blockCols,
                density,
                bytesBefore,
                bytesAfter,
                estimates);
    }

    private static ConversionReport.Entry left(LinearSites.Site site, String reason) {
        Parameter weight = weightOf(site.linear);
        long bytes = 0;
        if (weight.isInitialized()) {
            NDArray array = weight.getArray();
            bytes = array.size() * array.getDataType().getNumOfBytes();
        }
        return new ConversionReport.Entry(
                site.name, weight.getShape(), false, reason, 0, 0, 1, bytes, bytes, Map.of());
    }

    /** Builds a {@link BsrConverter}. */
    public static final class Builder {

        private final List<int[]> blockShapes = new ArrayList<>();
        private float tolerance;
        private BlockPruner pruner;
        private ConversionPolicy policy =
                ConversionPolicy.maxDensity(ConversionPolicy.DEFAULT_MAX_DENSITY);
        private BsrWeightFormat weightFormat = BsrWeightFormat.AS_GIVEN;
        private boolean keepDense;
        private final List<Long> tokens = new ArrayList<>();

        private Builder() {}

        /**
         * Adds a block shape. With several, a layer gets the first that divides its weight and that
         * the policy accepts.
         *
         * @param blockRows the rows of a block
         * @param blockCols the columns of a block
         * @return this builder
         * @throws IllegalArgumentException if a number is less than 1
         */
        public Builder addBlockShape(int blockRows, int blockCols) {
            if (blockRows < 1 || blockCols < 1) {
                throw new IllegalArgumentException(
                        "block shape is "
                                + blockRows
                                + "x"
                                + blockCols
                                + "; use numbers of 1 or more");
            }
            blockShapes.add(new int[] {blockRows, blockCols});
            return this;
        }

        /**
         * Sets the largest absolute value that counts as zero; 0 by default.
         *
         * @param tolerance the tolerance
         * @return this builder
         */
        public Builder optTolerance(float tolerance) {
            this.tolerance = tolerance;
            return this;
        }

        /**
         * Sets a pruner, whose blocks replace each selected weight. The block shape is the
         * pruner's: {@link #addBlockShape} is not needed then.
         *
         * @param pruner the pruner
         * @return this builder
         */
        public Builder optPruner(BlockPruner pruner) {
            this.pruner = Objects.requireNonNull(pruner, "pruner is null; leave optPruner out");
            return this;
        }

        /**
         * Sets the policy; by default layers up to a density of {@link
         * ConversionPolicy#DEFAULT_MAX_DENSITY} are swapped.
         *
         * @param policy the policy
         * @return this builder
         */
        public Builder optPolicy(ConversionPolicy policy) {
            this.policy =
                    Objects.requireNonNull(policy, "policy is null; use ConversionPolicy.all()");
            return this;
        }

        /**
         * Sets how the swapped layers keep their weights for inference; as given by default. {@link
         * BsrWeightFormat} tells what a format is for: a layer that it is not for is left, with the
         * reason in the report. See {@link BsrLinear.Builder#optWeightFormat}.
         *
         * @param format the format
         * @return this builder
         */
        public Builder optWeightFormat(BsrWeightFormat format) {
            this.weightFormat =
                    Objects.requireNonNull(format, "format is null; use BsrWeightFormat.AS_GIVEN");
            return this;
        }

        /**
         * Sets whether the arrays of swapped layers stay open. By default they are closed, to free
         * their memory; keep them if something outside the block uses the layers.
         *
         * @param keepDense whether they stay open
         * @return this builder
         */
        public Builder optKeepDense(boolean keepDense) {
            this.keepDense = keepDense;
            return this;
        }

        /**
         * Adds numbers of tokens, products of an input's leading dimensions, for which the report
         * predicts what {@link BsrExecution#AUTO} runs. Each swapped layer is then packed at once
         * and not with its first call.
         *
         * @param tokens the numbers
         * @return this builder
         * @throws IllegalArgumentException if a number is less than 1
         */
        public Builder optTokens(long... tokens) {
            for (long count : tokens) {
                if (count < 1) {
                    throw new IllegalArgumentException("tokens is " + count + "; use 1 or more");
                }
                this.tokens.add(count);
            }
            return this;
        }

        /**
         * Builds the converter.
         *
         * @return the converter
         * @throws IllegalArgumentException if neither block shape nor pruner are set, or their
         *     block shapes differ, or the tolerance is negative
         */
        public BsrConverter build() {
            if (pruner != null) {
                takeShapeOfPruner();
            }
            if (blockShapes.isEmpty()) {
                throw new IllegalArgumentException(
                        "no block shape is set; call addBlockShape or optPruner");
            }
            if (!(tolerance >= 0)) {
                throw new IllegalArgumentException(
                        "tolerance is " + tolerance + "; use a number that is not negative");
            }
            return new BsrConverter(this);
        }

        private void takeShapeOfPruner() {
            int[] shape = {pruner.blockRows(), pruner.blockCols()};
            for (int[] added : blockShapes) {
                if (!Arrays.equals(added, shape)) {
                    throw new IllegalArgumentException(
                            "block shape "
                                    + added[0]
                                    + "x"
                                    + added[1]
                                    + " was added, but the pruner's is "
                                    + shape[0]
                                    + "x"
                                    + shape[1]
                                    + "; leave addBlockShape out");
                }
            }
            blockShapes.clear();
            blockShapes.add(shape);
        }
    }
}
