package events_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/napkin-kit/napkin/kit/events"
)

func TestBlocksCoverEveryPartitionOnce(t *testing.T) {
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		for p := range events.Partitions {
			holders := 0
			for _, b := range events.Blocks(n) {
				if b.Validate() != nil {
					t.Fatal(b.Validate())
				}
				if b.Contains(p) {
					holders++
				}
			}
			if holders != 1 {
				t.Errorf("partition %d lies in %d of %d blocks", p, holders, n)
			}
		}
	}
}

func TestBlockValidate(t *testing.T) {
	for _, b := range []events.Block{{Count: 3}, {Count: -1}, {Count: 128}, {Index: 1}, {Index: 8, Count: 8}, {Index: -1, Count: 8}} {
		if err := b.Validate(); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%+v: %v", b, err)
		}
	}
	if b := (events.Block{}); b.Validate() != nil || !b.Whole() || !b.Contains(0) || !b.Contains(63) {
		t.Error("the zero block is not the whole")
	}
}

func ExampleBlock() {
	b := events.Block{Index: 2, Count: 8}
	fmt.Println(b, b.First(), b.Size(), b.Contains(17), b.Contains(24))
	// Output: 2 of 8 16 8 true false
}
