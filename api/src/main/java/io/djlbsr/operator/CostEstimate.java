/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
package io.djlbsr.operator;

/**
 * How long a call is predicted to take.
 *
 * @param bsrSeconds block-sparse
 * @param denseSeconds as a dense product of the densified weight, with the activation after it
 * @param denseFaster whether dense is ahead by enough to be worth a second weight in memory
 */
public record CostEstimate(double bsrSeconds, double denseSeconds, boolean denseFaster) {

    /**
     * Returns how many times as fast block-sparse is as dense.
     *
     * @return the quotient of the times; 1 where both are 0
     */
    public double speedUp() {
        return bsrSeconds == denseSeconds ? 1 : denseSeconds / bsrSeconds;
    }
}
