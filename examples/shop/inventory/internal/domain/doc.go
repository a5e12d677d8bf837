// Package domain holds the rules of stock: what may be promised, what is sold,
// what comes back. It knows neither SQL nor the wire.
//
// Two sums hold at every commit, whatever happened before it:
//
//	on_hand + committed = received + adjusted + restocked
//	0 ≤ reserved ≤ on_hand
//
// Both follow from the table of [Kind]s: every change of a [Level] is one
// movement, and a movement that would break the second sum is refused.
package domain
