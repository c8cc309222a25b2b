/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.djlbsr.BsrPatterns.Pattern;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class BsrSpyTest {

    private static final int WHITE = 0xFFFFFFFF;
    private static final int FRAME = 0xFF606060;
    private static final int RED = 0xFFD7301F;

    /** The plot's left and top edge inside the frame, and its size. */
    private record Area(int left, int top, int width, int height) {

        static Area of(BufferedImage image) {
            int top = 16;
            int left = 0;
            while (image.getRGB(left, top) != FRAME) {
                left++;
            }
            int width = 1;
            while (image.getRGB(left + width, top) != FRAME) {
                width++;
            }
            int height = 1;
            while (image.getRGB(left + 1, top + height) != FRAME) {
                height++;
            }
            return new Area(left + 1, top, width - 1, height);
        }
    }

    @ParameterizedTest
    @MethodSource("io.djlbsr.Cases#matrices")
    void colorsTheCellsOfStoredBlocksAlone(BsrMatrix m) {
        BsrStructure s = m.getStructure();
        BufferedImage image = BsrSpy.draw(m);
        Area area = Area.of(image);
        for (int i = 0; i < s.getBlockRowCount(); i++) {
            for (int j = 0; j < s.getBlockColCount(); j++) {
                int x = area.left + (2 * j + 1) * area.width / (2 * s.getBlockColCount());
                int y = area.top + (2 * i + 1) * area.height / (2 * s.getBlockRowCount());
                boolean stored = Cases.at(m, i * s.getBlockRows(), j * s.getBlockCols()) != 0;
                assertEquals(
                        stored,
                        image.getRGB(x, y) != WHITE,
                        "block " + i + ", " + j + " of " + m + " at pixel " + x + ", " + y);
            }
        }
    }

    @Test
    void largerBlocksAreDarkerAndBrokenOnesRed() {
        BsrStructure s = BsrStructure.of(1, 4, 1, 1, new int[] {0, 4}, new int[] {0, 1, 2, 3});
        BsrMatrix m = BsrMatrix.of(s, new float[] {0, 1, -3, Float.NaN});
        BufferedImage image = BsrSpy.draw(m);
        Area area = Area.of(image);
        int[] green = new int[4];
        for (int j = 0; j < 4; j++) {
            int rgb = image.getRGB(area.left + area.width * (2 * j + 1) / 8, area.top + 5);
            green[j] = rgb >> 8 & 0xFF;
            assertEquals(j == 3, rgb == RED, "block " + j);
        }
        assertTrue(green[0] < 255, "a block of zeros is visible");
        assertTrue(green[0] > green[1] && green[1] > green[2], "larger is darker");
    }

    @Test
    void manyBlocksFadeWithTheirDensity() {
        // Left half full, right half one block in four; 16 blocks a pixel.
        int n = 3072;
        int[] crow = new int[n + 1];
        IntList col = new IntList();
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) {
                if (j < n / 2 || (i % 2 == 0 && j % 2 == 0)) {
                    col.add(j);
                }
            }
            crow[i + 1] = col.size();
        }
        BsrStructure s = BsrStructure.of(n, n, 1, 1, crow, col.toArray());
        float[] ones = new float[s.getNnz()];
        Arrays.fill(ones, 1);
        BufferedImage image = BsrSpy.draw(BsrMatrix.of(s, ones));
        Area area = Area.of(image);
        assertEquals(List.of(768, 768), List.of(area.width, area.height));
        for (int y = 0; y < area.height; y++) {
            for (int x = 0; x < area.width; x++) {
                int expected = x < area.width / 2 ? 0xFF08306B : 0xFF8498B5;
                int actual = image.getRGB(area.left + x, area.top + y);
                assertEquals(expected, actual, "pixel " + x + ", " + y);
            }
        }
    }

    @Test
    void writesPng(@TempDir Path folder) throws IOException {
        BsrMatrix m = BsrPatterns.matrix(Pattern.RANDOM, 96, 64, 32, 16, 0.5, 1);
        Path file = folder.resolve("spy.png");
        BsrSpy.write(file, m);
        BufferedImage read = ImageIO.read(file.toFile());
        BufferedImage drawn = BsrSpy.draw(m);
        for (int y = 0; y < drawn.getHeight(); y++) {
            for (int x = 0; x < drawn.getWidth(); x++) {
                assertEquals(drawn.getRGB(x, y), read.getRGB(x, y), "pixel " + x + ", " + y);
            }
        }
        try (Stream<Path> files = Files.list(folder)) {
            assertEquals(List.of(file), files.toList());
        }
    }
}
