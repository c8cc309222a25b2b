/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.nn;

import ai.djl.ndarray.types.Shape;
import io.djlbsr.operator.CostEstimate;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.function.Function;

/** What a {@link BsrConverter} did with each layer of a block. */
public final class ConversionReport {

    private final List<Entry> entries;
    private final List<String> opaqueBlocks;

    ConversionReport(List<Entry> entries, List<String> opaqueBlocks) {
        this.entries = List.copyOf(entries);
        this.opaqueBlocks = List.copyOf(opaqueBlocks);
    }

    /**
     * Returns the layers in the order of the block's children.
     *
     * @return one entry per layer
     */
    public List<Entry> getEntries() {
        return entries;
    }

    /**
     * Returns the number of layers that were swapped.
     *
     * @return the number
     */
    public int getSwappedCount() {
        return (int) entries.stream().filter(Entry::swapped).count();
    }

    /**
     * Returns the blocks that cannot be looked into, such as a {@code SymbolBlock} or the function
     * of a {@code LambdaBlock}. A layer that only such a block knows is not in the report.
     *
     * @return name and reason, one string per block
     */
    public List<String> getOpaqueBlocks() {
        return opaqueBlocks;
    }

    /**
     * Returns the size of all weights before the conversion.
     *
     * @return the size in bytes
     */
    public long getBytesBefore() {
        return entries.stream().mapToLong(Entry::bytesBefore).sum();
    }

    /**
     * Returns the size of all weights after the conversion, with the indices of the blocks.
     *
     * @return the size in bytes
     */
    public long getBytesAfter() {
        return entries.stream().mapToLong(Entry::bytesAfter).sum();
    }

    /**
     * Returns the report as a table. With predictions, a column a number of tokens tells what runs
     * and how many times as fast as dense block-sparse is.
     */
    @Override
    public String toString() {
        SortedSet<Long> tokens = new TreeSet<>();
        entries.forEach(entry -> tokens.addAll(entry.estimates().keySet()));
        int width = 5;
        for (Entry entry : entries) {
            width = Math.max(width, entry.name().length());
        }
        String format = "%-" + width + "s  %-14s  %-8s  %7s  %12s  %12s  %s%s%n";
        StringBuilder table = new StringBuilder();
        table.append(
                String.format(
                        Locale.ROOT,
                        format,
                        "layer",
                        "weight",
                        "blocks",
                        "density",
                        "bytes before",
                        "bytes after",
                        columns(tokens, count -> "T=" + count),
                        "result"));
        for (Entry entry : entries) {
            table.append(
                    String.format(
                            Locale.ROOT,
                            format,
                            entry.name(),
                            entry.shape() == null ? "-" : entry.shape(),
                            entry.swapped() ? entry.blockRows() + "x" + entry.blockCols() : "-",
                            entry.swapped() && !Double.isNaN(entry.density())
                                    ? String.format(Locale.ROOT, "%.3f", entry.density())
                                    : "-",
                            entry.bytesBefore(),
                            entry.bytesAfter(),
                            columns(tokens, count -> cell(entry.estimates().get(count))),
                            entry.swapped() ? "swapped" : "left: " + entry.reason()));
        }
        table.append(
                String.format(
                        Locale.ROOT,
                        "%d of %d layers swapped, %d bytes before, %d after%n",
                        getSwappedCount(),
                        entries.size(),
                        getBytesBefore(),
                        getBytesAfter()));
        for (String block : opaqueBlocks) {
            table.append("not looked into: ").append(block).append(System.lineSeparator());
        }
        return table.toString();
    }

    private static String columns(SortedSet<Long> tokens, Function<Long, String> cell) {
        StringBuilder columns = new StringBuilder();
        for (long count : tokens) {
            columns.append(String.format(Locale.ROOT, "%-12s  ", cell.apply(count)));
        }
        return columns.toString();
    }

    private static String cell(CostEstimate estimate) {
        if (estimate == null) {
            return "-";
        }
        String side = estimate.denseFaster() ? "dense" : "BSR";
        return String.format(Locale.ROOT, "%s %.2fx", side, estimate.speedUp());
    }

    /**
     * What was done with a layer.
     *
     * @param name the layer's name, as it stands before {@code _weight} in the block's parameters;
     *     a shared layer has the first of its names
     * @param shape the weight's shape [rows, cols], or null if it is not known yet
     * @param swapped whether it is block-sparse now
     * @param reason why it was left, or empty
     * @param blockRows the rows of a block, 0 if it was left
     * @param blockCols the columns of a block, 0 if it was left
     * @param density the part of the blocks that are stored; 1 if it was left, and NaN if the file
     *     that the block loads next decides
     * @param bytesBefore the size of the weight before
     * @param bytesAfter the size of the weight and its indices after
     * @param estimates the predicted times of a swapped layer, by number of tokens; empty unless
     *     the converter was asked for them and the operator has a model
     */
    public record Entry(
            String name,
            Shape shape,
            boolean swapped,
            String reason,
            int blockRows,
            int blockCols,
            double density,
            long bytesBefore,
            long bytesAfter,
            Map<Long, CostEstimate> estimates) {}
}
