/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.nn.Block;
import ai.djl.nn.Parameter;
import ai.djl.nn.core.Linear;
import ai.djl.training.ParameterStore;
import ai.djl.training.initializer.NormalInitializer;
import com.google.gson.GsonBuilder;
import io.djlbsr.BsrMatrix;
import io.djlbsr.nn.BlockPruner;
import io.djlbsr.nn.BsrLinear;
import io.djlbsr.operator.BsrOperators;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import me.tongfei.progressbar.ProgressBar;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/**
 * Times one {@link BsrLinear} against DJL's dense {@link Linear} on the same random weights, turn
 * by turn in one process, through {@code Block.forward} as a model calls it.
 */
@Command(
        name = "LinearBenchmark",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        usageHelpAutoWidth = true,
        description = "Times block-sparse linear layers against DJL's dense Linear.")
public final class LinearBenchmark implements Callable<Integer> {

    @Spec private CommandSpec spec;

    @Option(
            names = "--shape",
            split = ",",
            paramLabel = "OUTxIN",
            converter = BlockShape.Converter.class,
            defaultValue = "1024x4096,3072x768,768x3072",
            description = "Shapes of the weight (default: ${DEFAULT-VALUE}).")
    private List<BlockShape> shapes;

    @Option(
            names = "--block",
            split = ",",
            paramLabel = "RxC",
            converter = BlockShape.Converter.class,
            defaultValue = "32x32,16x16,8x8",
            description = "Block shapes (default: ${DEFAULT-VALUE}).")
    private List<BlockShape> blocks;

    @Option(
            names = "--sparsity",
            split = ",",
            paramLabel = "S",
            defaultValue = "0.5,0.75,0.875,0.95",
            description = "Fractions of the blocks removed (default: ${DEFAULT-VALUE}).")
    private List<Double> sparsities;

    @Option(
            names = "--tokens",
            split = ",",
            paramLabel = "T",
            defaultValue = "1,16,128,512",
            description = "Rows of the input (default: ${DEFAULT-VALUE}).")
    private List<Integer> tokens;

    @Option(
            names = "--out",
            paramLabel = "FILE",
            defaultValue = "target/linear-benchmark.json",
            description = "Where the results go (default: ${DEFAULT-VALUE}).")
    private Path out;

    /** What was measured, on what. */
    private record Results(
            Machine machine, String command, String operator, List<Result> results) {}

    /**
     * One case.
     *
     * @param maxError the largest difference from the same weights run dense, over the largest
     *     output
     */
    private record Result(
            String shape,
            String block,
            double sparsity,
            int tokens,
            double denseMicros,
            double bsrMicros,
            double speedUp,
            double usefulGflops,
            double maxError) {}

    /**
     * Runs the command line.
     *
     * @param args the options; {@code --help} lists them
     */
    public static void main(String[] args) {
        int code = new CommandLine(new LinearBenchmark()).execute(args);
        if (code != 0) {
            System.exit(code);
        }
    }

    @Override
    public Integer call() throws IOException {
        validate();
        PrintWriter console = spec.commandLine().getOut();
        Machine machine = Machine.read();
        List<Result> results = new ArrayList<>();
        String operator;
        int cases = shapes.size() * blocks.size() * sparsities.size() * tokens.size();
        try (NDManager manager = NDManager.newBaseManager("PyTorch");
                ProgressBar progress = new ProgressBar("cases", cases)) {
            operator =
                    BsrOperators.select(manager, manager.getDevice(), DataType.FLOAT32).getName();
            for (BlockShape shape : shapes) {
                for (BlockShape block : blocks) {
                    for (double sparsity : sparsities) {
                        try (NDManager scope = manager.newSubManager()) {
                            measure(scope, shape, block, sparsity, results, progress);
                        }
                    }
                }
            }
        }
        console.printf(
                "%-12s %-7s %8s %7s %11s %11s %9s %14s%n",
                "weight",
                "block",
                "removed",
                "tokens",
                "dense us",
                "BSR us",
                "speed-up",
                "GFLOP/s");
        for (Result r : results) {
            console.printf(
                    "%-12s %-7s %7.1f%% %7d %11.1f %11.1f %8.2fx %14.1f%s%n",
                    r.shape,
                    r.block,
                    100 * r.sparsity,
                    r.tokens,
                    r.denseMicros,
                    r.bsrMicros,
                    r.speedUp,
                    r.usefulGflops,
                    r.speedUp < 1 ? "  BSR IS SLOWER" : "");
        }
        console.printf(
                "Operator %s; GFLOP/s are useful ones: zeros do not count.%n%s%n",
                operator, machine);
        String command =
                "LinearBenchmark "
                        + String.join(" ", spec.commandLine().getParseResult().originalArgs());
        Results all = new Results(machine, command.strip(), operator, results);
        if (out.getParent() != null) {
            Files.createDirectories(out.getParent());
        }
        Files.writeString(out, new GsonBuilder().setPrettyPrinting().create().toJson(all));
        console.printf("Written: %s%n", out);
        console.flush();
        return CommandLine.ExitCode.OK;
    }

    private void validate() {
        for (BlockShape shape : shapes) {
            for (BlockShape block : blocks) {
                check(
                        shape.rows() % block.rows() == 0 && shape.cols() % block.cols() == 0,
                        "--block " + block + ": it must divide --shape " + shape);
            }
        }
        for (double sparsity : sparsities) {
            check(
                    sparsity >= 0 && sparsity < 1,
                    "--sparsity " + sparsity + ": use fractions from 0 to less than 1");
        }
        for (int count : tokens) {
            check(count >= 1, "--tokens " + count + ": use 1 or more");
        }
    }

    private void check(boolean valid, String message) {
        if (!valid) {
            throw new ParameterException(spec.commandLine(), message);
        }
    }

    private void measure(
            NDManager manager,
            BlockShape shape,
            BlockShape block,
            double sparsity,
            List<Result> results,
            ProgressBar progress) {
        Linear dense = Linear.builder().setUnits(shape.rows()).build();
        dense.setInitializer(new NormalInitializer(1f), Parameter.Type.WEIGHT);
        dense.setInitializer(new NormalInitializer(1f), Parameter.Type.BIAS);
        dense.initialize(manager, DataType.FLOAT32, new Shape(1, shape.cols()));
        BsrMatrix pruned =
                BlockPruner.builder()
                        .setBlockShape(block.rows(), block.cols())
                        .setDensity(1 - sparsity)
                        .build()
                        .prune(dense.getDirectParameters().get("weight").getArray());
        BsrLinear sparse = BsrLinear.fromLinear(dense, pruned);
        Linear densified = sparse.toLinear(manager);
        ParameterStore store = new ParameterStore(manager, false);
        for (int count : tokens) {
            try (NDManager scope = manager.newSubManager()) {
                NDArray input = scope.randomNormal(new Shape(count, shape.cols()));
                NDList inputs = new NDList(input);
                NDArray expected = densified.forward(store, inputs, false).head();
                NDArray actual = sparse.forward(store, inputs, false).head();
                double error =
                        actual.sub(expected).abs().max().getFloat()
                                / expected.abs().max().getFloat();
                double[] millis =
                        Timing.medianMillis(
                                List.of(
                                        () -> forward(dense, store, inputs),
                                        () -> forward(sparse, store, inputs)));
                double flops = 2.0 * pruned.getStructure().getNnz() * count;
                results.add(
                        new Result(
                                shape.toString(),
                                block.toString(),
                                sparsity,
                                count,
                                millis[0] * 1e3,
                                millis[1] * 1e3,
                                millis[0] / millis[1],
                                flops / millis[1] * 1e-6,
                                error));
                progress.step();
            }
        }
    }

    private static void forward(Block block, ParameterStore store, NDList inputs) {
        try (NDList output = block.forward(store, inputs, false)) {
            output.head();
        }
    }
}
