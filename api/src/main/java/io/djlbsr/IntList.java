/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

import java.util.Arrays;

/** A growing int array. */
final class IntList {

    private int[] elements = new int[16];
    private int size;

    void add(int element) {
        if (size == elements.length) {
            long capacity = Math.min(2L * size, BsrStructure.MAX_ELEMENTS);
            elements = Arrays.copyOf(elements, (int) capacity);
        }
        elements[size++] = element;
    }

    int size() {
        return size;
    }

    void sort(int from) {
        Arrays.sort(elements, from, size);
    }

    int[] toArray() {
        return Arrays.copyOf(elements, size);
    }
}
