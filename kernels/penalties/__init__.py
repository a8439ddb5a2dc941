"""Make tokens less likely that a sequence has had already, or more likely.

Of a token that has been generated `count` times, the logit becomes

    repeated - (presence * (count > 0) + frequency * count)

where `repeated` is logit / repetition of a positive logit and logit * repetition of any other, if the token is in the
prompt or was generated; else the logit itself. Every backend computes in float64 and rounds once, to float32: products
of two float32 are exact there, so that the result is the same bits whether or not a compiler fuses operations.

presence and frequency: OpenAI's; repetition: Keskar et al., "CTRL", 2019, section 4.1.
"""
