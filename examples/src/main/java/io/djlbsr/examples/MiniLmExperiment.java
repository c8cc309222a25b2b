/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.types.DataType;
import ai.djl.nn.core.Linear;
import ai.onnxruntime.OrtException;
import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrStructure;
import io.djlbsr.examples.Report.Latency;
import io.djlbsr.examples.Report.ModelQuality;
import io.djlbsr.nn.BlockPruner;
import io.djlbsr.nn.BsrConverter;
import io.djlbsr.nn.BsrLinear;
import io.djlbsr.nn.ConversionReport;
import io.djlbsr.operator.BsrOperators;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.stream.LongStream;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/** Prunes MiniLM, converts it, and measures dense, pruned and block-sparse models. */
final class MiniLmExperiment implements AutoCloseable {

    /** The largest difference of a component that counts as equal. */
    private static final double BOUND = 1e-4;

    private static final double RIDGE = 0.01;
    private static final int HELD_OUT = 500;
    private static final int CHECKED = 20;
    private static final int[] BATCHES = {1, 8, 32};
    private static final int LONG_TOKENS = 128;
    private static final int LONG_BATCH = 8;
    private static final int EXAMPLES = 2;

    private final Settings settings;
    private final PrintWriter console;
    private final List<MiniLmModel> models = new ArrayList<>();
    private final Map<String, BsrMatrix> examples = new LinkedHashMap<>();

    /** What {@link MiniLm}'s options say. */
    record Settings(
            List<Double> sparsities,
            BlockShape block,
            Pattern layers,
            int sentences,
            Path sts,
            long seed) {}

    MiniLmExperiment(Settings settings, PrintWriter console) {
        this.settings = settings;
        this.console = console;
    }

    /**
     * Runs all.
     *
     * @throws CheckFailedException if the dense model differs from ONNX Runtime's, or a
     *     block-sparse one from its own densified weights
     */
    Report run() throws IOException, OrtException {
        StsBenchmark sts = settings.sts == null ? null : StsBenchmark.read(settings.sts);
        byte[] onnx = MiniLmModel.readOnnx();
        OnnxWeights weights = OnnxWeights.parse(onnx);
        MiniLmModel dense = keep(MiniLmModel.load(weights));
        List<long[]> tokens =
                dense.getTokenizer()
                        .encode(
                                WordNetGlosses.sample(
                                        HELD_OUT + settings.sentences, settings.seed));
        List<long[]> heldOut = tokens.subList(0, HELD_OUT);
        List<long[]> calibration = tokens.subList(HELD_OUT, tokens.size());
        double onnxError = compareWithOnnx(onnx, dense, heldOut.subList(0, CHECKED));

        Evaluation evaluation = new Evaluation(dense, heldOut, sts);
        List<ModelQuality> qualities = new ArrayList<>();
        qualities.add(evaluation.measure(Report.DENSE, 0, dense, null, null));
        Map<MiniLmModel, Double> sparseModels = new LinkedHashMap<>();
        for (double sparsity : settings.sparsities) {
            try (MiniLmModel pruned = MiniLmModel.load(weights)) {
                double seconds = prune(dense, pruned, sparsity, calibration);
                MiniLmModel sparse = keep(MiniLmModel.load(weights));
                sparse.copyWeights(pruned);
                double removed = convert(sparse);
                sparseModels.put(sparse, removed);
                double error = compareWithDensified(pruned, sparse, heldOut);
                qualities.add(
                        evaluation.measure(Report.LEAST_SQUARES, removed, sparse, error, seconds));

                pruned.copyWeights(dense);
                selected(pruned).values().forEach(linear -> pruneByMagnitude(linear, sparsity));
                qualities.add(evaluation.measure(Report.MAGNITUDE, removed, pruned, null, null));
            }
        }
        try (MiniLmModel floor = MiniLmModel.load(weights)) {
            selected(floor).values().forEach(MiniLmExperiment::setToZero);
            qualities.add(evaluation.measure(Report.FLOOR, 1, floor, null, null));
        }
        return new Report(
                Machine.read(),
                BsrOperators.select(dense.getManager(), Device.cpu(), DataType.FLOAT32).getName(),
                new Report.Settings(
                        settings.block.toString(),
                        List.copyOf(selected(dense).keySet()),
                        settings.sentences,
                        settings.seed),
                onnxError,
                qualities,
                measureLatencies(dense, sparseModels, heldOut));
    }

    /** Returns the block-sparse weights of the first pruned layers, by name, once it has run. */
    Map<String, BsrMatrix> getExamples() {
        return examples;
    }

    private MiniLmModel keep(MiniLmModel model) {
        models.add(model);
        return model;
    }

    /** The feed-forward layers that the settings select, by name. */
    private Map<String, Linear> selected(MiniLmModel model) {
        Map<String, Linear> layers = new LinkedHashMap<>(model.getEncoder().getFeedForwardLayers());
        layers.keySet().removeIf(name -> !settings.layers.matcher(name).find());
        return layers;
    }

    private double compareWithOnnx(byte[] onnx, MiniLmModel dense, List<long[]> sentences)
            throws OrtException {
        try (OnnxReference reference = new OnnxReference(onnx)) {
            double error = reference.maxError(sentences, dense.embedTokens(sentences));
            say(
                    "all-MiniLM-L6-v2 in DJL blocks: within %.1e of ONNX Runtime's embeddings (%d"
                            + " sentences, one batch)",
                    error, sentences.size());
            return check(error, "The dense model differs from ONNX Runtime's");
        }
    }

    private static double compareWithDensified(
            MiniLmModel densified, MiniLmModel sparse, List<long[]> sentences) {
        double error =
                Quality.maxDifference(densified.embedAll(sentences), sparse.embedAll(sentences));
        return check(error, "The block-sparse model differs from its own weights run dense");
    }

    private static double check(double error, String message) {
        if (!(error <= BOUND)) {
            throw new CheckFailedException(
                    "%s by %.2e; at most %.0e is right.".formatted(message, error, BOUND));
        }
        return error;
    }

    private double prune(
            MiniLmModel dense, MiniLmModel pruned, double sparsity, List<long[]> calibration) {
        LeastSquaresPruner method =
                new LeastSquaresPruner(
                        settings.block.rows(), settings.block.cols(), sparsity, RIDGE);
        long start = System.nanoTime();
        try (ProgressBar bar =
                new ProgressBarBuilder()
                        .setTaskName("Pruning %.0f %%".formatted(100 * sparsity))
                        .setStyle(ProgressBarStyle.ASCII)
                        .build()) {
            MiniLmPruner pruner =
                    new MiniLmPruner(
                            dense.getEncoder(),
                            pruned.getEncoder(),
                            method,
                            selected(pruned).values(),
                            bar::step);
            bar.maxHint(pruner.countSteps(calibration));
            pruner.prune(pruned.getManager(), calibration);
        }
        return (System.nanoTime() - start) * 1e-9;
    }

    /** Makes the selected layers block-sparse and returns the fraction of blocks without values. */
    private double convert(MiniLmModel model) {
        Map<String, Linear> layers = selected(model);
        ConversionReport report =
                BsrConverter.builder()
                        .addBlockShape(settings.block.rows(), settings.block.cols())
                        .optPolicy(
                                (name, linear, candidate) ->
                                        layers.containsKey(name)
                                                ? Optional.empty()
                                                : Optional.of("not selected"))
                        .build()
                        .convert(model.getEncoder());
        if (report.getSwappedCount() != layers.size()) {
            throw new CheckFailedException("Some layers could not be converted:\n" + report);
        }
        long blocks = 0;
        long stored = 0;
        for (Map.Entry<String, Linear> layer : selected(model).entrySet()) {
            BsrMatrix matrix = ((BsrLinear) layer.getValue()).getMatrix();
            BsrStructure structure = matrix.getStructure();
            stored += structure.getNnzb();
            blocks += (long) structure.getBlockRowCount() * structure.getBlockColCount();
            if (examples.size() < EXAMPLES) {
                examples.put(layer.getKey(), matrix);
            }
        }
        return 1 - (double) stored / blocks;
    }

    private void pruneByMagnitude(Linear linear, double sparsity) {
        NDArray weight = linear.getParameters().get("weight").getArray();
        BsrMatrix matrix =
                BlockPruner.builder()
                        .setBlockShape(settings.block.rows(), settings.block.cols())
                        .setDensity(1 - sparsity)
                        .optBalanced(true)
                        .build()
                        .prune(weight);
        weight.set(matrix.toDense());
    }

    private static void setToZero(Linear linear) {
        linear.getParameters().values().forEach(parameter -> parameter.getArray().muli(0));
    }

    private List<Latency> measureLatencies(
            MiniLmModel dense, Map<MiniLmModel, Double> sparseModels, List<long[]> sentences) {
        say("Timing %d models in turns ...", 1 + sparseModels.size());
        List<List<long[]>> batches = new ArrayList<>();
        for (int size : BATCHES) {
            batches.add(sentences.subList(0, size));
        }
        batches.add(joined(sentences));
        List<MiniLmModel> contestants = new ArrayList<>(List.of(dense));
        contestants.addAll(sparseModels.keySet());
        List<Latency> latencies = new ArrayList<>();
        for (List<long[]> batch : batches) {
            int tokens = batch.stream().mapToInt(ids -> ids.length).sum();
            List<Runnable> works = new ArrayList<>();
            contestants.forEach(model -> works.add(() -> model.embedTokens(batch)));
            double[] millis = Timing.medianMillis(works);
            int next = 1;
            for (double removed : sparseModels.values()) {
                latencies.add(
                        new Latency(batch.size(), tokens, removed, millis[0], millis[next++]));
            }
        }
        return latencies;
    }

    /** Joins sentences to texts of {@link #LONG_TOKENS} tokens. */
    private static List<long[]> joined(List<long[]> sentences) {
        long first = sentences.get(0)[0];
        long last = sentences.get(0)[sentences.get(0).length - 1];
        long[] words =
                sentences.stream()
                        .flatMapToLong(ids -> Arrays.stream(ids, 1, ids.length - 1))
                        .toArray();
        List<long[]> texts = new ArrayList<>();
        for (int i = 0; i < LONG_BATCH; ++i) {
            int inner = LONG_TOKENS - 2;
            texts.add(
                    LongStream.concat(
                                    LongStream.concat(
                                            LongStream.of(first),
                                            Arrays.stream(words, i * inner, (i + 1) * inner)),
                                    LongStream.of(last))
                            .toArray());
        }
        return texts;
    }

    private void say(String format, Object... values) {
        console.printf(format + "%n", values);
        console.flush();
    }

    @Override
    public void close() {
        models.forEach(MiniLmModel::close);
    }

    /** Measures models against the dense one on the same sentences. */
    private static final class Evaluation {

        private final List<long[]> heldOut;
        private final float[][] denseHeldOut;
        private final StsBenchmark sts;
        private final List<long[]> pairs;
        private final float[][] densePairs;

        Evaluation(MiniLmModel dense, List<long[]> heldOut, StsBenchmark sts) {
            this.heldOut = heldOut;
            this.sts = sts;
            denseHeldOut = dense.embedAll(heldOut);
            pairs = sts == null ? List.of() : dense.getTokenizer().encode(sts.sentences());
            densePairs = dense.embedAll(pairs);
        }

        ModelQuality measure(
                String name, double removed, MiniLmModel model, Double error, Double seconds) {
            double cosine = Quality.meanCosine(denseHeldOut, model.embedAll(heldOut));
            if (sts == null) {
                return new ModelQuality(name, removed, cosine, null, null, error, seconds);
            }
            float[][] embeddings = model.embedAll(pairs);
            double[] scores = sts.scores().stream().mapToDouble(Double::doubleValue).toArray();
            return new ModelQuality(
                    name,
                    removed,
                    cosine,
                    Quality.meanCosine(densePairs, embeddings),
                    Quality.spearman(Quality.pairCosines(embeddings), scores),
                    error,
                    seconds);
        }
    }
}
