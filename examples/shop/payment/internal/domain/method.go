package domain

import (
	"strings"
	"time"
)

// Method is a payment method: a token that stands for a card.
type Method struct {
	ID, UserID, Brand, Last4 string
	ExpMonth, ExpYear        int
	CreatedAt                time.Time
}

// Expired reports whether the card's month has passed.
func (m Method) Expired(now time.Time) bool {
	return !now.Before(time.Date(m.ExpYear, time.Month(m.ExpMonth)+1, 1, 0, 0, 0, 0, time.UTC))
}

// ValidNumber reports whether number can be a card's: digits only, with the
// check digit of ISO/IEC 7812-1.
func ValidNumber(number string) bool {
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

// Brand names the network a number belongs to, by its first digits.
func Brand(number string) string {
	switch {
	case strings.HasPrefix(number, "4"):
		return "visa"
	case strings.HasPrefix(number, "34"), strings.HasPrefix(number, "37"):
		return "amex"
	case len(number) >= 4 && (number[:2] >= "51" && number[:2] <= "55" || number[:4] >= "2221" && number[:4] <= "2720"):
		return "mastercard"
	default:
		return "card"
	}
}
