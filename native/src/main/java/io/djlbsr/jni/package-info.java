/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/**
 * The loader of {@code libdjlbsr}. Its JavaCPP binding, generated from {@code djlbsr.h}, is in
 * {@code io.djlbsr.jni.global}: call {@code NativeLibrary.load} before anything of it.
 */
package io.djlbsr.jni;
