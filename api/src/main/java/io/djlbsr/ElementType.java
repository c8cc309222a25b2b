/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr;

/** A data type of stored tensors. */
enum ElementType {
    INT32(4, true),
    INT64(8, true),
    FLOAT16(2, false),
    BFLOAT16(2, false),
    FLOAT32(4, false),
    FLOAT64(8, false);

    final int bytes;
    final boolean integer;

    ElementType(int bytes, boolean integer) {
        this.bytes = bytes;
        this.integer = integer;
    }
}
