// Package authn establishes who is calling and decides whether they may.
package authn
