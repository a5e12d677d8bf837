package provider

// Behaviour is what a card makes the simulator do.
type Behaviour string

// The behaviours of the test cards.
const (
	// Succeeds authorises, captures, voids and refunds at once.
	Succeeds Behaviour = "succeeds"
	// Declines refuses to authorise.
	Declines Behaviour = "declines"
	// NoFunds refuses to authorise for want of funds.
	NoFunds Behaviour = "no_funds"
	// Ambiguous records every operation and then leaves its caller without an
	// answer.
	Ambiguous Behaviour = "ambiguous"
	// CapturesLate answers a capture with "pending"; it takes effect later.
	CapturesLate Behaviour = "captures_late"
	// RefundFails answers the first two attempts of a refund with 503.
	RefundFails Behaviour = "refund_fails"
)

// Cards are the numbers with a behaviour of their own.
var Cards = map[string]Behaviour{
	"4242424242424242": Succeeds,
	"4000000000000002": Declines,
	"4000000000009995": NoFunds,
	"4000000000000119": Ambiguous,
	"4000000000000259": CapturesLate,
	"4000000000005126": RefundFails,
}

// refundFailures is how often a RefundFails card's refund fails first.
const refundFailures = 2

func behaviourOf(number string) Behaviour {
	if b, ok := Cards[number]; ok {
		return b
	}
	return Succeeds
}

// luhn reports whether number is all digits and passes the check of ISO/IEC
// 7812-1, annex B.
func luhn(number string) bool {
	if len(number) < 12 || len(number) > 19 {
		return false
	}
	sum := 0
	for i := range len(number) {
		c := number[len(number)-1-i]
		if c < '0' || c > '9' {
			return false
		}
		d := int(c - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}
