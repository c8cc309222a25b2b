/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import io.djlbsr.BsrMatrix;
import io.djlbsr.BsrSpy;
import io.djlbsr.BsrStructure;
import io.djlbsr.examples.Report.Latency;
import io.djlbsr.examples.Report.ModelQuality;
import java.awt.Color;
import java.awt.Font;
import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import javax.imageio.ImageIO;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.CategoryChart;
import org.knowm.xchart.CategoryChartBuilder;
import org.knowm.xchart.style.Styler.ChartTheme;
import org.knowm.xchart.style.Styler.LegendPosition;

/** Draws a {@link Report}: speed and quality as bars, and the pruned weights. */
final class MiniLmPicture {

    private static final int WIDTH = 800;
    private static final int HEIGHT = 420;
    private static final int MARGIN = 24;
    private static final int SPY_HEIGHT = 300;
    private static final Color DENSE = new Color(0x9E9E9E);
    private static final Color ORANGE = new Color(0xFDAE6B);
    private static final Color[] BLUES = {
        new Color(0x9ECAE1), new Color(0x4292C6), new Color(0x08519C), new Color(0x08306B)
    };

    private MiniLmPicture() {}

    /**
     * Writes a PNG file.
     *
     * @param file the file, replaced if it exists
     * @param report the numbers
     * @param weights block-sparse weights to show, by name
     * @throws IOException if the file cannot be written
     */
    static void write(Path file, Report report, Map<String, BsrMatrix> weights) throws IOException {
        BufferedImage image =
                new BufferedImage(
                        2 * WIDTH + 3 * MARGIN,
                        HEIGHT + SPY_HEIGHT + 3 * MARGIN,
                        BufferedImage.TYPE_INT_RGB);
        Graphics2D g = image.createGraphics();
        g.setRenderingHint(
                RenderingHints.KEY_TEXT_ANTIALIASING, RenderingHints.VALUE_TEXT_ANTIALIAS_ON);
        g.setColor(Color.WHITE);
        g.fillRect(0, 0, image.getWidth(), image.getHeight());
        g.drawImage(BitmapEncoder.getBufferedImage(speed(report)), MARGIN, MARGIN, null);
        g.drawImage(
                BitmapEncoder.getBufferedImage(quality(report)), WIDTH + 2 * MARGIN, MARGIN, null);
        int left = MARGIN;
        for (Map.Entry<String, BsrMatrix> weight : weights.entrySet()) {
            drawSpy(g, left, HEIGHT + 2 * MARGIN, weight.getKey(), weight.getValue());
            left += WIDTH + MARGIN;
        }
        g.dispose();
        if (!ImageIO.write(image, "png", file.toFile())) {
            throw new IOException("this Java runtime has no PNG writer");
        }
    }

    /** Tokens a second relative to dense, by batch. */
    private static CategoryChart speed(Report report) {
        CategoryChart chart =
                chart("Speed-up over dense (1 = equal)", "sentences (tokens) in a batch", "");
        List<String> batches =
                report.latencies().stream()
                        .map(l -> "%d (%d)".formatted(l.batch(), l.tokens()))
                        .distinct()
                        .toList();
        Map<Double, List<Double>> series = new LinkedHashMap<>();
        for (Latency l : report.latencies()) {
            series.computeIfAbsent(l.sparsity(), s -> new ArrayList<>()).add(l.speedUp());
        }
        List<Double> ones = batches.stream().map(b -> 1.0).toList();
        chart.addSeries("dense", batches, ones).setFillColor(DENSE);
        int next = 0;
        for (Map.Entry<Double, List<Double>> entry : series.entrySet()) {
            chart.addSeries(
                            "BSR, %s removed".formatted(percent(entry.getKey())),
                            batches,
                            entry.getValue())
                    .setFillColor(BLUES[next++ % BLUES.length]);
        }
        return chart;
    }

    /** Cosine to the dense embeddings, by fraction removed and method. */
    private static CategoryChart quality(Report report) {
        CategoryChart chart =
                chart(
                        "Mean cosine to the dense embeddings (1 = equal)",
                        "blocks removed; measured on WordNet sentences not used for pruning",
                        "");
        Map<String, List<Double>> series = new LinkedHashMap<>();
        Set<String> fractions = new LinkedHashSet<>();
        for (ModelQuality q : report.qualities()) {
            series.computeIfAbsent(q.model(), m -> new ArrayList<>()).add(q.glossCosine());
            fractions.add(percent(q.sparsity()));
        }
        // Dense is 1 by definition; the floor is the same for all fractions.
        series.remove(Report.DENSE);
        double floor = series.remove(Report.FLOOR).get(0);
        fractions.removeAll(List.of(percent(0), percent(1)));
        List<String> categories = List.copyOf(fractions);
        chart.addSeries(Report.LEAST_SQUARES, categories, series.get(Report.LEAST_SQUARES))
                .setFillColor(BLUES[1]);
        chart.addSeries(Report.MAGNITUDE, categories, series.get(Report.MAGNITUDE))
                .setFillColor(ORANGE);
        chart.addSeries(Report.FLOOR, categories, Collections.nCopies(categories.size(), floor))
                .setFillColor(DENSE);
        return chart;
    }

    private static CategoryChart chart(String title, String x, String y) {
        CategoryChart chart =
                new CategoryChartBuilder()
                        .width(WIDTH)
                        .height(HEIGHT)
                        .title(title)
                        .xAxisTitle(x)
                        .yAxisTitle(y)
                        .theme(ChartTheme.Matlab)
                        .build();
        chart.getStyler()
                .setLabelsVisible(true)
                .setAvailableSpaceFill(0.8)
                .setPlotGridVerticalLinesVisible(false)
                .setLegendPosition(LegendPosition.OutsideE)
                .setDecimalPattern("0.00");
        return chart;
    }

    /** Draws the wide way round, so that both weights of a feed-forward network look alike. */
    private static void drawSpy(Graphics2D g, int left, int top, String name, BsrMatrix weight) {
        BsrStructure structure = weight.getStructure();
        boolean tall = structure.getRows() > structure.getCols();
        BufferedImage spy = BsrSpy.draw(tall ? weight.transpose() : weight);
        g.setColor(Color.BLACK);
        g.setFont(new Font(Font.SANS_SERIF, Font.BOLD, 14));
        String title = "Weight of " + name + (tall ? ", transposed" : "");
        g.drawString(title, left + (WIDTH - g.getFontMetrics().stringWidth(title)) / 2, top + 20);
        g.drawImage(spy, left + (WIDTH - spy.getWidth()) / 2, top + 24, null);
    }

    private static String percent(double fraction) {
        return String.format(Locale.ROOT, "%.0f %%", 100 * fraction);
    }
}
