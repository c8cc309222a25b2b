/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/**
 * The native block-sparse operator on the NDArrays of DJL's PyTorch engine, and the engine {@code
 * BSR}, which is PyTorch with the operators {@code bsr::*} registered.
 */
package io.djlbsr.engine;
