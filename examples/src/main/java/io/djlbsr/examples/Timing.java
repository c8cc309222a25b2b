/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.examples;

import java.util.Arrays;
import java.util.List;

/** Times pieces of work against each other. */
final class Timing {

    private static final double SECONDS = 3;
    private static final int MIN_ROUNDS = 15;

    private Timing() {}

    /**
     * Times each piece of work many times. They take turns, so that a disturbance of the machine
     * hits all.
     *
     * @param works the pieces of work
     * @return the median time of each, in milliseconds
     */
    static double[] medianMillis(List<Runnable> works) {
        long warm = System.nanoTime();
        int warmRounds = 0;
        while (warmRounds < 3 || elapsed(warm) < SECONDS / 3) {
            works.forEach(Runnable::run);
            ++warmRounds;
        }
        // The warm-up tells how many rounds fit into the time.
        int rounds = Math.max(MIN_ROUNDS, (int) (warmRounds * SECONDS / elapsed(warm)));
        double[][] times = new double[works.size()][rounds];
        for (int round = 0; round < rounds; ++round) {
            for (int i = 0; i < times.length; ++i) {
                int next = (i + round) % times.length;
                long start = System.nanoTime();
                works.get(next).run();
                times[next][round] = elapsed(start) * 1e3;
            }
        }
        return Arrays.stream(times).mapToDouble(Timing::median).toArray();
    }

    private static double elapsed(long start) {
        return (System.nanoTime() - start) * 1e-9;
    }

    private static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int middle = sorted.length / 2;
        return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }
}
