package quire

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	quirev1 "quire/v1"
)

// Error is a call, or a request in a call of many, that failed.
type Error struct {
	Code codes.Code
	// Message is for InvalidArgument the field, what is allowed, and the value.
	Message string
	// RetryAfter is the time after which the same request may be sent again. Nil: it would fail again, or the server does
	// not know.
	RetryAfter *time.Duration
}

func (failed *Error) Error() string {
	return failed.Code.String() + ": " + failed.Message
}

func ofCall(err error) error {
	if err == nil {
		return nil
	}
	found := status.Convert(err)
	failed := &Error{Code: found.Code(), Message: found.Message()}
	for _, detail := range found.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			delay := time.Duration(info.GetRetryDelay().GetSeconds())*time.Second +
				time.Duration(info.GetRetryDelay().GetNanos())
			failed.RetryAfter = &delay
		}
	}
	return failed
}

func ofFailure(failure *quirev1.GenerateFailure) *Error {
	failed := &Error{Code: codes.Code(failure.GetCode()), Message: failure.GetMessage()}
	if failure.GetRetryDelay() != nil {
		delay := failure.GetRetryDelay().AsDuration()
		failed.RetryAfter = &delay
	}
	return failed
}
