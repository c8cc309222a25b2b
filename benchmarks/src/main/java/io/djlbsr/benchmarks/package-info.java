/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/** JMH benchmarks of block-sparse layers as a model calls them. */
package io.djlbsr.benchmarks;
