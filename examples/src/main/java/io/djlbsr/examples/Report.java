/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import com.google.gson.GsonBuilder;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * What {@link MiniLm} measured.
 *
 * @param machine processor count, threads, versions
 * @param operator the operator that applied the block-sparse weights
 * @param settings the command line's values
 * @param onnxError the dense model's largest difference from ONNX Runtime
 * @param qualities one entry a model, dense first
 * @param latencies one entry a batch and sparsity
 */
record Report(
        Machine machine,
        String operator,
        Settings settings,
        double onnxError,
        List<ModelQuality> qualities,
        List<Latency> latencies) {

    static final String DENSE = "dense";
    static final String LEAST_SQUARES = "BSR, least squares";
    static final String MAGNITUDE = "by magnitude";
    static final String FLOOR = "layers set to zero";

    /** The values that decide the result. */
    record Settings(String block, List<String> prunedLayers, int sentences, long seed) {}

    /**
     * The quality of a model.
     *
     * @param model its name
     * @param sparsity the fraction of blocks removed from the selected layers
     * @param glossCosine the mean cosine to the dense embeddings, on WordNet sentences that are not
     *     in the calibration text
     * @param stsCosine the same on the STS sentences, or null
     * @param spearman the rank correlation with the STS scores, or null
     * @param ownError the block-sparse model's largest difference from its own densified weights,
     *     or null if the model is not block-sparse
     * @param pruneSeconds the time that pruning took, or null
     */
    record ModelQuality(
            String model,
            double sparsity,
            double glossCosine,
            Double stsCosine,
            Double spearman,
            Double ownError,
            Double pruneSeconds) {}

    /**
     * Dense against block-sparse on one batch.
     *
     * @param batch the number of sentences
     * @param tokens the number of tokens in them, padding not counted
     * @param sparsity the fraction of blocks removed from the selected layers
     * @param denseMillis the dense model's median time
     * @param bsrMillis the block-sparse model's median time
     */
    record Latency(int batch, int tokens, double sparsity, double denseMillis, double bsrMillis) {

        double speedUp() {
            return denseMillis / bsrMillis;
        }

        double denseTokensPerSecond() {
            return tokens / denseMillis * 1e3;
        }

        double bsrTokensPerSecond() {
            return tokens / bsrMillis * 1e3;
        }
    }

    String toJson() {
        return new GsonBuilder().setPrettyPrinting().create().toJson(this);
    }

    /** Returns the tables that the command line prints. */
    String toText() {
        StringBuilder text = new StringBuilder();
        text.append("Quality of the embeddings (cosine to the dense model's; 1 is equal)\n\n");
        line(
                text,
                "%-22s %9s %9s %9s %9s %12s",
                "model",
                "removed",
                "glosses",
                "STS",
                "Spearman",
                "BSR - dense*");
        for (ModelQuality q : qualities) {
            line(
                    text,
                    "%-22s %8.1f%% %9.4f %9s %9s %12s",
                    q.model(),
                    100 * q.sparsity(),
                    q.glossCosine(),
                    q.stsCosine() == null ? "-" : "%.4f".formatted(q.stsCosine()),
                    q.spearman() == null ? "-" : "%.4f".formatted(q.spearman()),
                    q.ownError() == null ? "-" : "%.1e".formatted(q.ownError()));
        }
        text.append("* largest difference of a component from the same weights run dense\n\n");
        text.append(
                "Time of one batch, dense against block-sparse (medians; operator %s)\n\n"
                        .formatted(operator));
        line(
                text,
                "%9s %7s %9s %10s %10s %9s %11s %11s",
                "sentences",
                "tokens",
                "removed",
                "dense ms",
                "BSR ms",
                "speed-up",
                "dense tok/s",
                "BSR tok/s");
        for (Latency l : latencies) {
            line(
                    text,
                    "%9d %7d %8.1f%% %10.3f %10.3f %8.2fx %11.0f %11.0f%s",
                    l.batch(),
                    l.tokens(),
                    100 * l.sparsity(),
                    l.denseMillis(),
                    l.bsrMillis(),
                    l.speedUp(),
                    l.denseTokensPerSecond(),
                    l.bsrTokensPerSecond(),
                    l.speedUp() < 1 ? "  BSR IS SLOWER" : "");
        }
        text.append('\n').append(String.join("\n", remarks()));
        return text.append('\n').toString();
    }

    private List<String> remarks() {
        List<String> remarks = new ArrayList<>();
        long slower = latencies.stream().filter(l -> l.speedUp() < 1).count();
        if (slower > 0) {
            remarks.add(
                    "BSR is slower than dense in %d of %d cases here."
                            .formatted(slower, latencies.size()));
        }
        if (machine.loadAverage() > machine.processors()) {
            remarks.add(
                    "Load average %.1f on %d processors: other programs disturbed these times."
                            .formatted(machine.loadAverage(), machine.processors()));
        }
        remarks.add(
                "%s, %d processors, %d threads, PyTorch %s. Pruned: %d layers, blocks of %s,"
                                .formatted(
                                        machine.processor(),
                                        machine.processors(),
                                        machine.threads(),
                                        machine.pytorch(),
                                        settings.prunedLayers().size(),
                                        settings.block())
                        + " %d WordNet sentences.".formatted(settings.sentences()));
        return remarks;
    }

    private static void line(StringBuilder text, String format, Object... values) {
        text.append(String.format(Locale.ROOT, format, values)).append('\n');
    }
}
