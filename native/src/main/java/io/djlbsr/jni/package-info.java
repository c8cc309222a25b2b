/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/** The loader of {@code libdjlbsr} and its JavaCPP binding, generated from {@code djlbsr.h}. */
package io.djlbsr.jni;
