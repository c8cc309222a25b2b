/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.benchmarks;

/** Two numbers of a parameter. */
final class Pair {

    private Pair() {}

    /** Reads "ROWSxCOLS". */
    static int[] parse(String text) {
        String[] numbers = text.split("x", -1);
        if (numbers.length != 2) {
            throw new IllegalArgumentException(text + " is not ROWSxCOLS, such as 32x32");
        }
        return new int[] {Integer.parseInt(numbers[0]), Integer.parseInt(numbers[1])};
    }
}
