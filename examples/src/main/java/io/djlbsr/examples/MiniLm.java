/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import ai.onnxruntime.OrtException;
import io.djlbsr.examples.MiniLmExperiment.Settings;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/**
 * The command line that prunes all-MiniLM-L6-v2, runs it with block-sparse layers and tells what
 * that costs and gains.
 *
 * <p>Exit codes: 0 if all is well, 1 if a check or an input failed, 2 for bad options.
 */
@Command(
        name = "MiniLm",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        usageHelpAutoWidth = true,
        description = {
            "Prunes the sentence encoder all-MiniLM-L6-v2 to blocks, runs it with block-sparse"
                    + " layers, and compares quality and speed with the dense model.",
            "The model and the calibration text come from Maven artifacts; nothing is downloaded."
        })
public final class MiniLm implements Callable<Integer> {

    private static final int MAX_SENTENCES = 100_000;

    @Spec private CommandSpec spec;

    @Option(
            names = "--sparsity",
            paramLabel = "S",
            split = ",",
            defaultValue = "0.5,0.75",
            description =
                    "Fractions of the blocks to remove, from 0 to less than 1, separated by commas"
                            + " (default: ${DEFAULT-VALUE}).")
    private List<Double> sparsities;

    @Option(
            names = "--block",
            paramLabel = "RxC",
            defaultValue = "32x32",
            converter = BlockShape.Converter.class,
            description = "The block shape, rows x columns (default: ${DEFAULT-VALUE}).")
    private BlockShape block;

    @Option(
            names = "--layers",
            paramLabel = "REGEX",
            defaultValue = "",
            description =
                    "Prune the feed-forward layers in whose names this is found, such as"
                            + " 'layer[3-5].*output' (default: all twelve).")
    private String layers;

    @Option(
            names = "--sentences",
            paramLabel = "N",
            defaultValue = "2000",
            description = "Calibration sentences from WordNet (default: ${DEFAULT-VALUE}).")
    private int sentences;

    @Option(
            names = "--sts",
            paramLabel = "FILE",
            description =
                    "Also measure on sentence pairs: a CSV file with sentence, sentence, score.")
    private Path sts;

    @Mixin private ThreadsOption threads;

    @Option(
            names = "--out",
            paramLabel = "DIR",
            defaultValue = "target/minilm",
            description = "Where minilm.png and minilm.json go (default: ${DEFAULT-VALUE}).")
    private Path out;

    @Option(
            names = "--seed",
            paramLabel = "N",
            defaultValue = "0",
            description = "Seed of the choice of sentences (default: ${DEFAULT-VALUE}).")
    private long seed;

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
        return new CommandLine(new MiniLm())
                .setExecutionExceptionHandler(
                        (e, line, result) -> {
                            if (!(e instanceof IOException || e instanceof CheckFailedException)) {
                                throw e;
                            }
                            line.getErr().println(line.getColorScheme().errorText(message(e)));
                            return line.getCommandSpec().exitCodeOnExecutionException();
                        });
    }

    private static String message(Exception e) {
        return e instanceof CheckFailedException ? e.getMessage() : "Cannot go on: " + e;
    }

    @Override
    public Integer call() throws IOException, OrtException {
        Settings settings = validate();
        threads.apply();
        PrintWriter console = spec.commandLine().getOut();
        Files.createDirectories(out);
        try (MiniLmExperiment experiment = new MiniLmExperiment(settings, console)) {
            Report report = experiment.run();
            console.println();
            console.print(report.toText());
            Path json = out.resolve("minilm.json");
            Files.writeString(json, report.toJson());
            Path picture = out.resolve("minilm.png");
            MiniLmPicture.write(picture, report, experiment.getExamples());
            console.printf("Written: %s, %s%n", picture, json);
            console.flush();
            return CommandLine.ExitCode.OK;
        }
    }

    private Settings validate() {
        for (double sparsity : sparsities) {
            check(
                    sparsity >= 0 && sparsity < 1,
                    "--sparsity " + sparsity + ": use fractions from 0 to less than 1");
        }
        int small = MiniLmEncoder.HIDDEN;
        check(
                small % block.rows() == 0 && small % block.cols() == 0,
                "--block " + block + ": rows and columns must divide " + small);
        check(
                sentences >= 1 && sentences <= MAX_SENTENCES,
                "--sentences " + sentences + ": use 1 to " + MAX_SENTENCES);
        check(
                sts == null || (Files.isRegularFile(sts) && Files.isReadable(sts)),
                "--sts " + sts + ": there is no such file to read");
        check(
                !Files.exists(out) || Files.isDirectory(out),
                "--out " + out + ": this is a file; name a directory");
        Set<String> names = new MiniLmEncoder().getFeedForwardLayers().keySet();
        Pattern pattern = compile(layers);
        check(
                names.stream().anyMatch(pattern.asPredicate()),
                "--layers " + layers + ": matches none of " + String.join(", ", names));
        return new Settings(List.copyOf(sparsities), block, pattern, sentences, sts, seed);
    }

    private Pattern compile(String regex) {
        try {
            return Pattern.compile(regex);
        } catch (PatternSyntaxException e) {
            throw new ParameterException(
                    spec.commandLine(), "--layers: no regular expression: " + e.getMessage(), e);
        }
    }

    private void check(boolean valid, String message) {
        if (!valid) {
            throw new ParameterException(spec.commandLine(), message);
        }
    }
}
