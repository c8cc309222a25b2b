/** The interface of block-sparse operators, their selection, and the reference operator. */
package io.djlbsr.operator;
