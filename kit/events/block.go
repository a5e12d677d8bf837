package events

import "fmt"

// Block is a contiguous run of the [Partitions]: the block at Index where they
// are cut into Count equal ones. Relays and consumers share work by blocks, so
// that the order of a key, which lies in one partition and thus in one block,
// holds. The zero value is the whole.
type Block struct {
	// Index is from 0 to Count-1.
	Index int
	// Count divides [Partitions]. 0 is 1.
	Count int
}

// Validate checks the block; the error wraps [ErrInvalid].
func (b Block) Validate() error {
	n := b.count()
	if n < 0 || n > Partitions || Partitions%n != 0 {
		return fmt.Errorf("%w: Block.Count %d: use 1, 2, 4, 8, 16, 32 or 64", ErrInvalid, b.Count)
	}
	if b.Index < 0 || b.Index >= n {
		return fmt.Errorf("%w: Block.Index %d: must be from 0 to %d", ErrInvalid, b.Index, n-1)
	}
	return nil
}

// First is the block's first partition.
func (b Block) First() int { return b.Index * b.Size() }

// Size is how many partitions the block has.
func (b Block) Size() int { return Partitions / b.count() }

// Contains reports whether the partition lies in the block.
func (b Block) Contains(partition int) bool {
	return partition >= b.First() && partition < b.First()+b.Size()
}

// Whole reports whether the block is all partitions.
func (b Block) Whole() bool { return b.count() == 1 }

// String is "<index> of <count>".
func (b Block) String() string { return fmt.Sprintf("%d of %d", b.Index, b.count()) }

// Blocks cuts the partitions into n blocks. It panics where n does not divide
// them.
func Blocks(n int) []Block {
	blocks := make([]Block, 0, max(n, 0))
	for i := range n {
		blocks = append(blocks, Block{Index: i, Count: n})
	}
	if err := (Block{Count: n}).Validate(); n == 0 || err != nil {
		panic(fmt.Sprintf("events: Blocks(%d): use 1, 2, 4, 8, 16, 32 or 64", n))
	}
	return blocks
}

func (b Block) count() int {
	if b.Count == 0 {
		return 1
	}
	return b.Count
}
