/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.Shape;
import io.djlbsr.BsrStructure;
import io.djlbsr.nn.BlockPruner;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class LeastSquaresPrunerTest {

    private static final int SAMPLES = 400;
    private static final int IN = 24;
    private static final int OUT = 8;
    private static final int BLOCK_ROWS = 4;
    private static final int BLOCK_COLS = 3;
    private static final int BLOCKS = IN / BLOCK_COLS;
    private static final double RIDGE = 1e-9;

    private final Random random = new Random(7);
    private final double[][] x = new double[SAMPLES][IN];
    private final double[][] y = new double[SAMPLES][OUT];
    private final float[] weight = new float[OUT * IN];

    private NDManager manager;
    private CalibrationSums sums;

    /** Correlated inputs that are not centered, and the outputs of a dense layer with a bias. */
    @BeforeEach
    void createData() {
        manager = NDManager.newBaseManager("PyTorch");
        double[][] mix = new double[IN][IN];
        for (int i = 0; i < IN; ++i) {
            for (int j = 0; j < IN; ++j) {
                mix[i][j] = (i == j ? 1 : 0) + 0.15 * random.nextGaussian();
            }
        }
        for (int i = 0; i < weight.length; ++i) {
            weight[i] = (float) random.nextGaussian();
        }
        for (int n = 0; n < SAMPLES; ++n) {
            for (int i = 0; i < IN; ++i) {
                double z = random.nextGaussian();
                for (int j = 0; j < IN; ++j) {
                    x[n][j] += z * mix[i][j];
                }
            }
            for (int j = 0; j < IN; ++j) {
                x[n][j] = (float) (x[n][j] + 1);
            }
            for (int o = 0; o < OUT; ++o) {
                double sum = o - 3;
                for (int j = 0; j < IN; ++j) {
                    sum += weight[o * IN + j] * x[n][j];
                }
                y[n][o] = (float) sum;
            }
        }
        sums = new CalibrationSums(manager, IN, OUT);
        int half = SAMPLES / 2;
        add(0, half);
        add(half, SAMPLES);
    }

    private void add(int from, int to) {
        float[] inputs = new float[(to - from) * IN];
        float[] targets = new float[(to - from) * OUT];
        for (int n = from; n < to; ++n) {
            for (int j = 0; j < IN; ++j) {
                inputs[(n - from) * IN + j] = (float) x[n][j];
            }
            for (int o = 0; o < OUT; ++o) {
                targets[(n - from) * OUT + o] = (float) y[n][o];
            }
        }
        sums.add(
                manager.create(inputs, new Shape(2, (to - from) / 2, IN)),
                manager.create(targets, new Shape(2, (to - from) / 2, OUT)));
    }

    @AfterEach
    void close() {
        manager.close();
    }

    @Test
    void withoutSparsityFindsTheDenseLayer() {
        LeastSquaresPruner.Result result = prune(0);
        assertEquals(1, result.weight().getDensity());
        assertArrayEquals(weight, result.weight().toDense(), 1e-3f);
        for (int o = 0; o < OUT; ++o) {
            assertEquals(o - 3, result.bias()[o], 1e-3, "bias " + o);
        }
    }

    @Test
    void keepsTheSameNumberOfBlocksInEachRow() {
        BsrStructure structure = prune(0.6).weight().getStructure();
        for (int row = 0; row < OUT / BLOCK_ROWS; ++row) {
            assertEquals(BLOCKS - 5, structure.crow(row + 1) - structure.crow(row), "row " + row);
        }
    }

    /** At the least squares the residual is orthogonal to every surviving, centered input. */
    @Test
    void satisfiesTheNormalEquations() {
        LeastSquaresPruner.Result result = prune(0.5);
        double[][] residual = residual(result.weight().toDense(), result.bias());
        double[] mean = new double[IN];
        for (double[] row : x) {
            for (int j = 0; j < IN; ++j) {
                mean[j] += row[j] / SAMPLES;
            }
        }
        BsrStructure structure = result.weight().getStructure();
        for (int o = 0; o < OUT; ++o) {
            int blockRow = o / BLOCK_ROWS;
            double size = 0;
            double biasError = 0;
            for (double[] row : residual) {
                size += row[o] * row[o];
                biasError += row[o] / SAMPLES;
            }
            assertEquals(0, biasError, 1e-4, "mean residual of output " + o);
            for (int k = structure.crow(blockRow); k < structure.crow(blockRow + 1); ++k) {
                for (int j = structure.col(k) * BLOCK_COLS;
                        j < (structure.col(k) + 1) * BLOCK_COLS;
                        ++j) {
                    double product = 0;
                    double scale = 0;
                    for (int n = 0; n < SAMPLES; ++n) {
                        product += residual[n][o] * (x[n][j] - mean[j]);
                        scale += (x[n][j] - mean[j]) * (x[n][j] - mean[j]);
                    }
                    double cosine = product / Math.sqrt(size * scale);
                    assertEquals(0, cosine, 1e-4, "output " + o + ", input " + j);
                }
            }
        }
    }

    @Test
    void beatsMagnitudePruning() {
        LeastSquaresPruner.Result result = prune(0.5);
        float[] magnitude =
                BlockPruner.builder()
                        .setBlockShape(BLOCK_ROWS, BLOCK_COLS)
                        .setDensity(0.5)
                        .optBalanced(true)
                        .build()
                        .prune(weight, OUT, IN)
                        .toDense();
        double fitted = squares(residual(result.weight().toDense(), result.bias()));
        double plain = squares(residual(magnitude, new float[] {-3, -2, -1, 0, 1, 2, 3, 4}));
        assertTrue(fitted < 0.5 * plain, fitted + " against " + plain);
    }

    /** Greedy elimination need not be optimal, but its first step is. */
    @Test
    void removesTheBlockThatCostsLeast() {
        LeastSquaresPruner.Result result = prune(1.0 / BLOCKS);
        double actual = squares(residual(result.weight().toDense(), result.bias()), 0);
        BsrStructure structure = result.weight().getStructure();
        int removed = BLOCKS - 1;
        for (int k = 0; k < BLOCKS - 1; ++k) {
            if (structure.col(k) != k) {
                removed = k;
                break;
            }
        }
        // The exhaustive answer: refit with each block-column silenced in the data.
        int best = -1;
        double least = Double.POSITIVE_INFINITY;
        for (int silent = 0; silent < BLOCKS; ++silent) {
            double error = errorWithout(silent);
            if (error < least) {
                least = error;
                best = silent;
            }
        }
        assertEquals(best, removed);
        assertEquals(least, actual, 1e-3 * least);
    }

    private double errorWithout(int silent) {
        double[][] saved = new double[SAMPLES][];
        for (int n = 0; n < SAMPLES; ++n) {
            saved[n] = x[n].clone();
            for (int j = silent * BLOCK_COLS; j < (silent + 1) * BLOCK_COLS; ++j) {
                x[n][j] = 0;
            }
        }
        sums = new CalibrationSums(manager, IN, OUT);
        add(0, SAMPLES);
        LeastSquaresPruner.Result result = prune(0);
        double error = squares(residual(result.weight().toDense(), result.bias()), 0);
        System.arraycopy(saved, 0, x, 0, SAMPLES);
        return error;
    }

    @Test
    void givesBlocksToTheRowsThatWeighMost() {
        LeastSquaresPruner pruner = new LeastSquaresPruner(BLOCK_ROWS, BLOCK_COLS, 0.5, RIDGE);
        for (int heavy = 0; heavy < OUT / BLOCK_ROWS; ++heavy) {
            double[] weights = {1, 1};
            weights[heavy] = 1e6;
            BsrStructure structure = pruner.prune(sums, weights, () -> {}).weight().getStructure();
            assertEquals(BLOCKS, structure.getNnzb());
            assertEquals(BLOCKS, structure.crow(heavy + 1) - structure.crow(heavy));
        }
        BsrStructure even =
                pruner.prune(sums, new double[] {1, 1}, () -> {}).weight().getStructure();
        assertEquals(BLOCKS, even.getNnzb());
        assertTrue(even.crow(1) > 0 && even.crow(1) < BLOCKS, even.toString());
    }

    @Test
    void refusesBadSettings() {
        for (double sparsity : new double[] {-0.1, 1, Double.NaN}) {
            IllegalArgumentException e =
                    assertThrows(
                            IllegalArgumentException.class,
                            () -> new LeastSquaresPruner(4, 4, sparsity, RIDGE));
            assertTrue(e.getMessage().contains(Double.toString(sparsity)), e.getMessage());
        }
        assertThrows(IllegalArgumentException.class, () -> new LeastSquaresPruner(4, 4, 0.5, 0));
        assertThrows(
                IllegalArgumentException.class,
                () -> new LeastSquaresPruner(5, 3, 0.5, RIDGE).prune(sums, null, () -> {}));
    }

    private LeastSquaresPruner.Result prune(double sparsity) {
        return new LeastSquaresPruner(BLOCK_ROWS, BLOCK_COLS, sparsity, RIDGE)
                .prune(sums, null, () -> {});
    }

    private double[][] residual(float[] w, float[] bias) {
        double[][] residual = new double[SAMPLES][OUT];
        for (int n = 0; n < SAMPLES; ++n) {
            for (int o = 0; o < OUT; ++o) {
                double sum = bias[o];
                for (int j = 0; j < IN; ++j) {
                    sum += w[o * IN + j] * x[n][j];
                }
                residual[n][o] = y[n][o] - sum;
            }
        }
        return residual;
    }

    private static double squares(double[][] residual) {
        return squares(residual, 0) + squares(residual, 1);
    }

    private static double squares(double[][] residual, int blockRow) {
        double sum = 0;
        for (double[] row : residual) {
            for (int o = blockRow * BLOCK_ROWS; o < (blockRow + 1) * BLOCK_ROWS; ++o) {
                sum += row[o] * row[o];
            }
        }
        return sum;
    }
}
