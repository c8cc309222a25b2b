/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.awt.AWTError;
import java.awt.Color;
import java.awt.Font;
import java.awt.FontMetrics;
import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.IntSummaryStatistics;
import java.util.Locale;
import javax.imageio.ImageIO;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Draws the block structure of a matrix as a picture: a cell a stored block, the darker the larger
 * its root mean square, on white, with the proportions of the matrix and a caption.
 *
 * <p>Where blocks are smaller than a pixel, a pixel is as strong as the square root of the share of
 * its blocks that are stored. Blocks that hold NaN or infinite elements are red.
 *
 * <p>No display is needed, but set {@code java.awt.headless=true} where {@code DISPLAY} names one
 * that does not answer. Without fonts the caption is left out.
 */
public final class BsrSpy {

    private static final Logger logger = LoggerFactory.getLogger(BsrSpy.class);

    private static final int LONG_SIDE = 768;
    private static final int SHORT_SIDE = 32;
    private static final int MAX_CELL = 40;
    private static final int MARGIN = 16;

    /** Cells of at least this many pixels are set apart by a white line. */
    private static final int GAP_FROM = 6;

    private static final int FONT_SIZE = 13;
    private static final int LINE = 20;

    private static final int WHITE = 0xFFFFFF;
    private static final int FRAME = 0x606060;
    private static final int LIGHT = 0xB4D2E7;
    private static final int DARK = 0x08306B;
    private static final int RED = 0xD7301F;

    /** The share of blocks below the magnitude that is drawn darkest: outliers do not fade all. */
    private static final double DARKEST = 0.98;

    private BsrSpy() {}

    /**
     * Draws a matrix.
     *
     * @param matrix the matrix
     * @return the picture
     */
    public static BufferedImage draw(BsrMatrix matrix) {
        BsrStructure.requireNonNull("matrix", matrix);
        BsrStructure s = matrix.getStructure();
        Axis x = Axis.of(s.getCols(), s.getBlockColCount(), s.getRows(), s.getBlockRowCount());
        Axis y = Axis.of(s.getRows(), s.getBlockRowCount(), s.getCols(), s.getBlockColCount());
        double[] magnitudes = magnitudes(matrix);
        double[] finite = Arrays.stream(magnitudes).filter(Double::isFinite).sorted().toArray();
        String[] caption = caption(s, finite);

        int textWidth = textWidth(caption);
        int width = Math.max(x.pixels, textWidth) + 2 * MARGIN;
        int height =
                y.pixels + 2 * MARGIN + (textWidth > 0 ? MARGIN / 2 + LINE * caption.length : 0);
        BufferedImage image = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB);
        for (int row = 0; row < height; row++) {
            for (int column = 0; column < width; column++) {
                image.setRGB(column, row, WHITE);
            }
        }
        int left = (width - x.pixels) / 2;
        double darkest =
                finite.length == 0 ? 0 : finite[(int) Math.ceil(DARKEST * (finite.length - 1))];
        new Plot(image, left, x, y).draw(s, magnitudes, darkest);
        if (textWidth > 0) {
            write(image, caption, y.pixels + 2 * MARGIN + MARGIN / 2);
        }
        return image;
    }

    /**
     * Draws a matrix into a PNG file.
     *
     * @param file the file, replaced if it exists
     * @param matrix the matrix
     * @throws IOException if the file cannot be written
     */
    public static void write(Path file, BsrMatrix matrix) throws IOException {
        BufferedImage image = draw(matrix);
        BsrFiles.replace(
                file,
                out -> {
                    if (!ImageIO.write(image, "png", out)) {
                        throw new IOException("this Java runtime has no PNG writer");
                    }
                });
    }

    /** The root mean square of each block. */
    private static double[] magnitudes(BsrMatrix matrix) {
        BsrStructure s = matrix.getStructure();
        FloatBuffer values = matrix.values();
        int size = s.getBlockRows() * s.getBlockCols();
        double[] magnitudes = new double[s.getNnzb()];
        for (int k = 0; k < magnitudes.length; k++) {
            double sum = 0;
            for (int e = 0; e < size; e++) {
                double value = values.get();
                sum += value * value;
            }
            magnitudes[k] = Math.sqrt(sum / size);
        }
        return magnitudes;
    }

    private static String[] caption(BsrStructure s, double[] sortedMagnitudes) {
        String first =
                String.format(
                        Locale.ROOT,
                        "%d \u00d7 %d, blocks %d \u00d7 %d, %d of %d stored (%.3g %%)",
                        s.getRows(),
                        s.getCols(),
                        s.getBlockRows(),
                        s.getBlockCols(),
                        s.getNnzb(),
                        (long) s.getBlockRowCount() * s.getBlockColCount(),
                        100 * s.getDensity());
        if (s.getNnzb() == 0) {
            return new String[] {first};
        }
        IntSummaryStatistics rows = s.getRowStatistics();
        String second = range("%d", rows.getMin(), rows.getMax()) + " blocks a block-row";
        int finite = sortedMagnitudes.length;
        if (finite > 0) {
            second +=
                    ", block RMS "
                            + range("%.3g", sortedMagnitudes[0], sortedMagnitudes[finite - 1]);
        }
        if (finite < s.getNnzb()) {
            second += ", " + (s.getNnzb() - finite) + " not finite (red)";
        }
        return new String[] {first, second};
    }

    private static String range(String format, Number least, Number greatest) {
        String from = String.format(Locale.ROOT, format, least);
        String to = String.format(Locale.ROOT, format, greatest);
        return from.equals(to) ? from : from + " to " + to;
    }

    /** The pixels of the longest line, or 0 if this machine cannot write text. */
    private static int textWidth(String[] lines) {
        try {
            Graphics2D g = graphics(new BufferedImage(1, 1, BufferedImage.TYPE_INT_RGB));
            FontMetrics metrics = g.getFontMetrics();
            int width = Arrays.stream(lines).mapToInt(metrics::stringWidth).max().orElse(0);
            g.dispose();
            return width;
        } catch (RuntimeException | LinkageError | InternalError | AWTError e) {
            // What a Java runtime without font libraries throws depends on its version.
            logger.warn("Spy pictures have no caption, install fontconfig and a font: {}", e, e);
            return 0;
        }
    }

    private static Graphics2D graphics(BufferedImage image) {
        Graphics2D g = image.createGraphics();
        g.setFont(new Font(Font.SANS_SERIF, Font.PLAIN, FONT_SIZE));
        g.setRenderingHint(
                RenderingHints.KEY_TEXT_ANTIALIASING, RenderingHints.VALUE_TEXT_ANTIALIAS_ON);
        return g;
    }

    private static void write(BufferedImage image, String[] lines, int top) {
        Graphics2D g = graphics(image);
        g.setColor(new Color(FRAME));
        FontMetrics metrics = g.getFontMetrics();
        for (int i = 0; i < lines.length; i++) {
            int x = (image.getWidth() - metrics.stringWidth(lines[i])) / 2;
            g.drawString(lines[i], x, top + i * LINE + metrics.getAscent() - MARGIN / 2);
        }
        g.dispose();
    }

    /** How the blocks along one side map to pixels. */
    private static final class Axis {

        private final int blocks;
        private final int pixels;

        private Axis(int blocks, int pixels) {
            this.blocks = blocks;
            this.pixels = pixels;
        }

        static Axis of(int extent, int blocks, int otherExtent, int otherBlocks) {
            // The longer side takes LONG_SIDE pixels, or fewer where the larger cell gets too big.
            double longest = Math.max(1, Math.max(extent, otherExtent));
            double scale = LONG_SIDE / longest;
            double cell =
                    Math.max(
                            blocks == 0 ? 0 : scale * extent / blocks,
                            otherBlocks == 0 ? 0 : scale * otherExtent / otherBlocks);
            scale *= Math.min(1, MAX_CELL / Math.max(cell, 1));
            int pixels = (int) Math.max(SHORT_SIDE, Math.round(scale * extent));
            if (blocks > 0 && blocks <= pixels) {
                // Cells of equal size.
                pixels = pixels / blocks * blocks;
            }
            return new Axis(blocks, pixels);
        }

        int start(int block) {
            return (int) ((long) block * pixels / blocks);
        }

        /** The end of a block's pixels, of which it has at least one. */
        int end(int block) {
            int start = start(block);
            int end = Math.max(start + 1, start(block + 1));
            return end - start >= GAP_FROM ? end - 1 : end;
        }

        /** The blocks that share a pixel. */
        double blocksAt(int pixel) {
            if (blocks <= pixels) {
                return 1;
            }
            long first = ((long) pixel * blocks + pixels - 1) / pixels;
            long end = ((pixel + 1L) * blocks + pixels - 1) / pixels;
            return end - first;
        }
    }

    /** The framed area of a picture that shows the blocks. */
    private static final class Plot {

        private final BufferedImage image;
        private final int left;
        private final Axis x;
        private final Axis y;

        /** For each pixel of one row: stored blocks, their shade, and the ones not finite. */
        private final double[] stored;

        private final double[] shade;
        private final boolean[] broken;

        Plot(BufferedImage image, int left, Axis x, Axis y) {
            this.image = image;
            this.left = left;
            this.x = x;
            this.y = y;
            stored = new double[x.pixels];
            shade = new double[x.pixels];
            broken = new boolean[x.pixels];
        }

        void draw(BsrStructure s, double[] magnitudes, double darkest) {
            int i = 0;
            while (i < y.blocks) {
                int start = y.start(i);
                int end = y.end(i);
                Arrays.fill(stored, 0);
                Arrays.fill(shade, 0);
                Arrays.fill(broken, false);
                for (; i < y.blocks && y.start(i) == start; i++) {
                    for (int k = s.crow(i); k < s.crow(i + 1); k++) {
                        add(s.col(k), magnitudes[k], darkest);
                    }
                }
                double blocks = y.blocksAt(start);
                for (int row = start; row < end; row++) {
                    drawRow(row, blocks);
                }
            }
            for (int column = -1; column <= x.pixels; column++) {
                image.setRGB(left + column, MARGIN - 1, FRAME);
                image.setRGB(left + column, MARGIN + y.pixels, FRAME);
            }
            for (int row = -1; row <= y.pixels; row++) {
                image.setRGB(left - 1, MARGIN + row, FRAME);
                image.setRGB(left + x.pixels, MARGIN + row, FRAME);
            }
        }

        private void add(int blockCol, double magnitude, double darkest) {
            for (int column = x.start(blockCol); column < x.end(blockCol); column++) {
                stored[column]++;
                if (Double.isFinite(magnitude)) {
                    shade[column] += darkest == 0 ? 0 : Math.min(1, magnitude / darkest);
                } else {
                    broken[column] = true;
                }
            }
        }

        private void drawRow(int row, double blocksDown) {
            for (int column = 0; column < x.pixels; column++) {
                if (stored[column] > 0) {
                    double share = stored[column] / (blocksDown * x.blocksAt(column));
                    int color = mix(LIGHT, DARK, shade[column] / stored[column]);
                    int rgb = broken[column] ? RED : mix(WHITE, color, Math.sqrt(share));
                    image.setRGB(left + column, MARGIN + row, rgb);
                }
            }
        }

        private static int mix(int from, int to, double share) {
            int rgb = 0;
            for (int shift = 0; shift < 24; shift += 8) {
                int a = from >> shift & 0xFF;
                int b = to >> shift & 0xFF;
                rgb |= (int) Math.round(a + share * (b - a)) << shift;
            }
            return rgb;
        }
    }
}
