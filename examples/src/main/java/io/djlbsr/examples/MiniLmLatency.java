/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.Device;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import com.google.gson.GsonBuilder;
import io.djlbsr.nn.BlockPruner;
import io.djlbsr.nn.BsrConverter;
import io.djlbsr.nn.BsrLinear;
import io.djlbsr.operator.BsrOperators;
import io.djlbsr.operator.CostEstimate;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/**
 * Times all-MiniLM-L6-v2 with dense and with block-sparse feed-forward layers, and these layers
 * alone: what remains is the time of the layers that block sparsity does not touch.
 *
 * <p>The blocks are chosen by magnitude, since their values do not change the time; {@link MiniLm}
 * is about quality.
 */
@Command(
        name = "MiniLmLatency",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        usageHelpAutoWidth = true,
        description = "Times MiniLM with dense and block-sparse feed-forward layers.")
public final class MiniLmLatency implements Callable<Integer> {

    @Spec private CommandSpec spec;

    @Option(
            names = "--sparsity",
            paramLabel = "S",
            defaultValue = "0.8",
            description = "The fraction of blocks to remove (default: ${DEFAULT-VALUE}).")
    private double sparsity;

    @Option(
            names = "--block",
            split = ",",
            paramLabel = "RxC",
            defaultValue = "32x32,16x16",
            converter = BlockShape.Converter.class,
            description = "Block shapes (default: ${DEFAULT-VALUE}).")
    private List<BlockShape> blocks;

    @Option(
            names = "--batch",
            split = ",",
            paramLabel = "N",
            defaultValue = "1,32",
            description = "Numbers of sentences (default: ${DEFAULT-VALUE}).")
    private List<Integer> batches;

    @Mixin private ThreadsOption threads;

    @Option(
            names = "--out",
            paramLabel = "FILE",
            description = "Also write the results there, as JSON.")
    private Path out;

    /** What was measured, on what. */
    private record Results(
            Machine machine,
            String command,
            String operator,
            double sparsity,
            List<Result> results) {}

    /**
     * A batch with one block shape.
     *
     * @param tokens the tokens of the batch, padding included, as the layers see them
     * @param denseLayersMillis the time of the twelve feed-forward layers alone
     * @param layersRunDense how many of the layers the automatic choice runs dense
     */
    private record Result(
            int batch,
            long tokens,
            String block,
            double denseMillis,
            double bsrMillis,
            double denseLayersMillis,
            double bsrLayersMillis,
            long layersRunDense) {

        double speedUp() {
            return denseMillis / bsrMillis;
        }

        double layersSpeedUp() {
            return denseLayersMillis / bsrLayersMillis;
        }

        /** The share of the block-sparse model's time that is not in its block-sparse layers. */
        double restShare() {
            return Math.max(0, 1 - bsrLayersMillis / bsrMillis);
        }

        double denseRestShare() {
            return Math.max(0, 1 - denseLayersMillis / denseMillis);
        }
    }

    /**
     * Runs the command line.
     *
     * @param args the options; {@code --help} lists them
     */
    public static void main(String[] args) {
        int code = commandLine().execute(args);
        if (code != 0) {
            System.exit(code);
        }
    }

    static CommandLine commandLine() {
        return new CommandLine(new MiniLmLatency());
    }

    @Override
    public Integer call() throws IOException {
        validate();
        threads.apply();
        Machine machine = Machine.read();
        List<Result> results = new ArrayList<>();
        OnnxWeights weights = OnnxWeights.parse(MiniLmModel.readOnnx());
        Map<BlockShape, MiniLmModel> models = new LinkedHashMap<>();
        String operator;
        try (MiniLmModel dense = MiniLmModel.load(weights)) {
            for (BlockShape block : blocks) {
                models.put(block, sparse(weights, block));
            }
            operator =
                    BsrOperators.select(dense.getManager(), Device.cpu(), DataType.FLOAT32)
                            .getName();
            for (int batch : batches) {
                List<long[]> sentences =
                        dense.getTokenizer().encode(WordNetGlosses.sample(batch, 0));
                measure(dense, models, sentences, results);
            }
        } finally {
            models.values().forEach(MiniLmModel::close);
        }
        PrintWriter console = spec.commandLine().getOut();
        print(console, results);
        console.printf("Operator %s, %.0f %% removed.%n%s%n", operator, 100 * sparsity, machine);
        if (out != null) {
            String command =
                    "MiniLmLatency "
                            + String.join(" ", spec.commandLine().getParseResult().originalArgs());
            Results all = new Results(machine, command, operator, sparsity, results);
            if (out.getParent() != null) {
                Files.createDirectories(out.getParent());
            }
            Files.writeString(out, new GsonBuilder().setPrettyPrinting().create().toJson(all));
            console.printf("Written: %s%n", out);
        }
        console.flush();
        return CommandLine.ExitCode.OK;
    }

    private void validate() {
        check(
                sparsity >= 0 && sparsity < 1,
                "--sparsity " + sparsity + ": use a fraction from 0 to less than 1");
        for (BlockShape block : blocks) {
            int small = MiniLmEncoder.HIDDEN;
            check(
                    small % block.rows() == 0 && small % block.cols() == 0,
                    "--block " + block + ": rows and columns must divide " + small);
        }
        for (int batch : batches) {
            check(batch >= 1, "--batch " + batch + ": use 1 or more");
        }
    }

    private void check(boolean valid, String message) {
        if (!valid) {
            throw new ParameterException(spec.commandLine(), message);
        }
    }

    private MiniLmModel sparse(OnnxWeights weights, BlockShape block) throws IOException {
        MiniLmModel model = MiniLmModel.load(weights);
        Set<String> names = model.getEncoder().getFeedForwardLayers().keySet();
        BlockPruner pruner =
                BlockPruner.builder()
                        .setBlockShape(block.rows(), block.cols())
                        .setDensity(1 - sparsity)
                        .build();
        BsrConverter.builder()
                .optPruner(pruner)
                .optPolicy(
                        (name, linear, candidate) ->
                                names.contains(name)
                                        ? Optional.empty()
                                        : Optional.of("not selected"))
                .build()
                .convert(model.getEncoder());
        return model;
    }

    private static void measure(
            MiniLmModel dense,
            Map<BlockShape, MiniLmModel> models,
            List<long[]> sentences,
            List<Result> results) {
        int batch = sentences.size();
        int length = sentences.stream().mapToInt(ids -> ids.length).max().orElseThrow();
        long tokens = (long) batch * length;
        try (NDManager manager = dense.getManager().newSubManager()) {
            Map<Long, NDArray> inputs = new LinkedHashMap<>();
            for (long width : new long[] {MiniLmEncoder.HIDDEN, MiniLmEncoder.FEED_FORWARD}) {
                inputs.put(width, manager.randomNormal(new Shape(batch, length, width)));
            }
            List<MiniLmModel> contestants = new ArrayList<>(List.of(dense));
            contestants.addAll(models.values());
            List<Runnable> works = new ArrayList<>();
            for (MiniLmModel model : contestants) {
                works.add(() -> model.embedTokens(sentences));
                works.add(() -> feedForward(model, inputs));
            }
            double[] millis = Timing.medianMillis(works);
            int next = 2;
            for (Map.Entry<BlockShape, MiniLmModel> model : models.entrySet()) {
                results.add(
                        new Result(
                                batch,
                                tokens,
                                model.getKey().toString(),
                                millis[0],
                                millis[next],
                                millis[1],
                                millis[next + 1],
                                runDense(model.getValue(), tokens)));
                next += 2;
            }
        }
    }

    /** Runs the feed-forward layers alone, in the order of the forward pass. */
    private static void feedForward(MiniLmModel model, Map<Long, NDArray> inputs) {
        try (NDManager scratch = model.getManager().newSubManager()) {
            ParameterStore parameters = new ParameterStore(scratch, false);
            for (Linear layer : model.getEncoder().getFeedForwardLayers().values()) {
                long units = layer.getDirectParameters().get("bias").getArray().size();
                long width = MiniLmEncoder.HIDDEN + MiniLmEncoder.FEED_FORWARD - units;
                layer.forward(parameters, new NDList(inputs.get(width)), false).close();
            }
        }
    }

    private static long runDense(MiniLmModel model, long tokens) {
        return model.getEncoder().getFeedForwardLayers().values().stream()
                .map(layer -> ((BsrLinear) layer).estimate(tokens))
                .filter(estimate -> estimate.map(CostEstimate::denseFaster).orElse(false))
                .count();
    }

    private static void print(PrintWriter console, List<Result> results) {
        console.printf(
                Locale.ROOT,
                "%45s | %31s | %s%n%9s %7s %8s %9s %9s | %9s %9s %11s | %9s %9s%n",
                "whole model",
                "feed-forward layers alone",
                "share of the other layers",
                "sentences",
                "tokens",
                "blocks",
                "dense ms",
                "BSR ms",
                "dense ms",
                "BSR ms",
                "speed-up",
                "dense",
                "BSR");
        for (Result r : results) {
            console.printf(
                    Locale.ROOT,
                    "%9d %7d %8s %9.2f %9.2f | %9.2f %9.2f %10.2fx | %8.0f%% %8.0f%%   model"
                            + " %.2fx%s%n",
                    r.batch(),
                    r.tokens(),
                    r.block(),
                    r.denseMillis(),
                    r.bsrMillis(),
                    r.denseLayersMillis(),
                    r.bsrLayersMillis(),
                    r.layersSpeedUp(),
                    100 * r.denseRestShare(),
                    100 * r.restShare(),
                    r.speedUp(),
                    r.layersRunDense() > 0
                            ? ", " + r.layersRunDense() + " layers run dense by choice"
                            : "");
        }
    }
}
