/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Activation;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.BiConsumer;
import java.util.function.Consumer;

/**
 * Prunes the feed-forward layers of a {@link MiniLmEncoder}, first to last, on calibration text.
 *
 * <p>Each layer is fitted to what the dense model computes, on the inputs that the layers pruned
 * before it give. The second linear layer of a feed-forward network also makes up for the error of
 * its residual: it is fitted to the dense model's sum of both, less the pruned model's residual.
 *
 * <p>Before that, the hidden units are sorted by what they add to the output: their mean square
 * times the squared norm of their outgoing weights (the score of <a
 * href="https://arxiv.org/abs/2306.11695">Wanda, Sun et al., 2023</a>). That changes no output, but
 * it gathers units that are worth little in blocks that are worth little. The first linear layer's
 * block-rows then get blocks by what an error of their units costs, to first order: the mean square
 * of GELU's derivative times the same norm.
 */
final class MiniLmPruner {

    private static final int TOKENS_IN_BATCH = 4096;
    private static final int[] TOKENS = {0, 1};

    private final MiniLmEncoder dense;
    private final MiniLmEncoder pruned;
    private final LeastSquaresPruner method;
    private final Set<Linear> selected = Collections.newSetFromMap(new IdentityHashMap<>());
    private final Runnable afterStep;
    private final ParameterStore parameters;

    /**
     * Creates a pruner.
     *
     * @param dense the model to follow
     * @param pruned another instance of it, which {@link #prune} changes
     * @param method how to prune one linear layer
     * @param selected which of {@code pruned}'s feed-forward layers to prune
     * @param afterStep runs after each of {@link #countSteps} steps of similar length
     */
    MiniLmPruner(
            MiniLmEncoder dense,
            MiniLmEncoder pruned,
            LeastSquaresPruner method,
            Collection<Linear> selected,
            Runnable afterStep) {
        this.dense = dense;
        this.pruned = pruned;
        this.method = method;
        this.selected.addAll(selected);
        this.afterStep = afterStep;
        parameters = new ParameterStore();
    }

    /** What the dense and the pruned model hold for the tokens of a few sentences. */
    private static final class Batch {

        private final NDManager owner;
        private NDArray denseState;
        private NDArray denseSum;
        private NDArray prunedState;

        Batch(NDArray embeddings) {
            owner = embeddings.getManager();
            denseState = embeddings;
            prunedState = embeddings.duplicate();
        }

        /** Runs an action that may replace the arrays, and frees all others that it makes. */
        void update(Consumer<Batch> action) {
            try (NDManager scratch = owner.newSubManager()) {
                attach(scratch);
                action.accept(this);
                attach(owner);
            }
        }

        private void attach(NDManager manager) {
            denseState.attach(manager);
            prunedState.attach(manager);
            if (denseSum != null) {
                denseSum.attach(manager);
            }
        }
    }

    /**
     * Prunes.
     *
     * @param parent the manager under which the work is done
     * @param sentences the token ids of the calibration sentences
     */
    void prune(NDManager parent, List<long[]> sentences) {
        try (NDManager manager = parent.newSubManager()) {
            List<Batch> batches = new ArrayList<>();
            for (List<long[]> group : groups(sentences)) {
                try (NDManager scratch = manager.newSubManager()) {
                    NDArray ids = MiniLmTokenizer.batch(scratch, group).singletonOrThrow();
                    NDArray embeddings = dense.embed(parameters, ids, false);
                    embeddings.attach(manager);
                    batches.add(new Batch(embeddings));
                }
            }
            for (int i = 0; i < dense.getLayers().size(); ++i) {
                pruneLayer(manager, i, batches);
            }
        }
    }

    private void pruneLayer(NDManager manager, int index, List<Batch> batches) {
        EncoderLayer teacher = dense.getLayers().get(index);
        EncoderLayer student = pruned.getLayers().get(index);
        NDArray energies = manager.zeros(new Shape(MiniLmEncoder.FEED_FORWARD));
        NDArray slopes = energies.zerosLike();
        forEach(
                batches,
                batch -> {
                    batch.denseState = teacher.attend(parameters, batch.denseState, null, false);
                    batch.prunedState = student.attend(parameters, batch.prunedState, null, false);
                    NDArray z = apply(teacher.getIntermediate(), batch.denseState);
                    NDArray activated = Activation.gelu(z);
                    slopes.addi(squaredSlope(z).sum(TOKENS));
                    energies.addi(activated.square().sum(TOKENS));
                    NDArray projected = teacher.project(parameters, activated, false);
                    batch.denseSum = projected.add(batch.denseState);
                });
        double[] weights = sortUnits(student, energies, slopes);

        Linear intermediate = student.getIntermediate();
        if (selected.contains(intermediate)) {
            BiConsumer<Batch, CalibrationSums> samples =
                    (batch, sums) ->
                            sums.add(batch.prunedState, apply(intermediate, batch.denseState));
            fit(manager, intermediate, method.sumByBlockRow(weights), batches, samples);
        }
        Linear output = student.getOutput();
        if (selected.contains(output)) {
            BiConsumer<Batch, CalibrationSums> samples =
                    (batch, sums) ->
                            sums.add(
                                    student.activate(parameters, batch.prunedState, false),
                                    batch.denseSum.sub(batch.prunedState));
            fit(manager, output, null, batches, samples);
        }

        forEach(
                batches,
                batch -> {
                    batch.denseState = teacher.normalize(parameters, batch.denseSum, false);
                    NDArray activated = student.activate(parameters, batch.prunedState, false);
                    NDArray sum =
                            student.project(parameters, activated, false).add(batch.prunedState);
                    batch.prunedState = student.normalize(parameters, sum, false);
                });
    }

    private NDArray apply(Linear linear, NDArray x) {
        return linear.forward(parameters, new NDList(x), false).singletonOrThrow();
    }

    /** Fits a linear layer to samples and gives it the pruned weight, zeros included. */
    private void fit(
            NDManager manager,
            Linear linear,
            double[] rowWeights,
            List<Batch> batches,
            BiConsumer<Batch, CalibrationSums> samples) {
        NDArray weight = linear.getParameters().get("weight").getArray();
        Shape shape = weight.getShape();
        try (CalibrationSums sums =
                new CalibrationSums(manager, (int) shape.get(1), (int) shape.get(0))) {
            forEach(batches, batch -> samples.accept(batch, sums));
            LeastSquaresPruner.Result result = method.prune(sums, rowWeights, afterStep);
            weight.set(result.weight().toDense());
            linear.getParameters().get("bias").getArray().set(result.bias());
        }
    }

    private void forEach(List<Batch> batches, Consumer<Batch> action) {
        for (Batch batch : batches) {
            batch.update(action);
            afterStep.run();
        }
    }

    /** Returns the square of GELU's derivative, Φ(z) + z·φ(z). */
    private static NDArray squaredSlope(NDArray z) {
        NDArray cumulative = z.mul(Math.sqrt(0.5)).erf().add(1).div(2);
        NDArray density = z.square().div(-2).exp().div(Math.sqrt(2 * Math.PI));
        return cumulative.add(z.mul(density)).square();
    }

    /**
     * Puts the hidden units of a feed-forward network in descending order of what they add to the
     * output.
     *
     * @param energies the sum over all tokens of each unit's squared value
     * @param slopes the sum over all tokens of each unit's squared GELU derivative
     * @return what a squared error of each unit's sum costs, in the new order
     */
    private static double[] sortUnits(EncoderLayer layer, NDArray energies, NDArray slopes) {
        NDArray weight = layer.getIntermediate().getParameters().get("weight").getArray();
        NDArray bias = layer.getIntermediate().getParameters().get("bias").getArray();
        NDArray outgoing = layer.getOutput().getParameters().get("weight").getArray();
        try (NDManager scratch = energies.getManager().newSubManager()) {
            NDArray rows = weight.duplicate();
            NDArray column = bias.duplicate();
            NDArray columns = outgoing.transpose();
            scratch.attachAll(energies, slopes, rows, column, columns);
            NDArray norms = columns.square().sum(new int[] {1});
            NDArray order = norms.mul(energies).neg().argSort();
            rows.get(order).copyTo(weight);
            column.get(order).copyTo(bias);
            columns.get(order).transpose().copyTo(outgoing);
            NDArray costs = norms.mul(slopes).get(order);
            return costs.toType(DataType.FLOAT64, false).toDoubleArray();
        }
    }

    /** Groups sentences of equal length, so that no batch needs padding. */
    private static List<List<long[]>> groups(List<long[]> sentences) {
        Map<Integer, List<long[]>> byLength = new TreeMap<>();
        for (long[] sentence : sentences) {
            byLength.computeIfAbsent(sentence.length, length -> new ArrayList<>()).add(sentence);
        }
        List<List<long[]>> groups = new ArrayList<>();
        byLength.forEach(
                (length, all) -> {
                    int size = Math.max(1, TOKENS_IN_BATCH / length);
                    for (int i = 0; i < all.size(); i += size) {
                        groups.add(all.subList(i, Math.min(i + size, all.size())));
                    }
                });
        return groups;
    }

    /** Returns the number of steps that {@link #prune} takes. */
    int countSteps(List<long[]> sentences) {
        int batches = groups(sentences).size();
        int steps = 0;
        for (EncoderLayer layer : pruned.getLayers()) {
            steps += 2 * batches;
            for (Linear linear : List.of(layer.getIntermediate(), layer.getOutput())) {
                if (selected.contains(linear)) {
                    Shape shape = linear.getParameters().get("weight").getArray().getShape();
                    steps += batches + method.countBlockRows((int) shape.get(0));
                }
            }
        }
        return steps;
    }
}
